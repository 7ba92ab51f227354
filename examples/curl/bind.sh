#!/usr/bin/env bash
# Binds BINDING_ID to INSTANCE_ID of SERVICE_ID and PLAN_ID, for APP_ID if that is set, and prints the credentials; where
# bindings have users, an operation to poll, after which the binding is to be fetched.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID BINDING_ID SERVICE_ID PLAN_ID
call PUT "$binding?accepts_incomplete=true$webhook" "$(jq --null-input --arg service "$SERVICE_ID" --arg plan "$PLAN_ID" \
  --arg app "${APP_ID-}" '
    {service_id: $service, plan_id: $plan} + if $app == "" then {} else {bind_resource: {app_guid: $app}} end
  ')"
