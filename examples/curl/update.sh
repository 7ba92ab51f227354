#!/usr/bin/env bash
# Changes INSTANCE_ID of SERVICE_ID: to NEW_PLAN_ID, to PARAMETERS as JSON, to MAINTENANCE_VERSION as the catalog has it.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID SERVICE_ID
call PATCH "$instance?accepts_incomplete=true$webhook" "$(jq --null-input --arg service "$SERVICE_ID" \
  --arg plan "${NEW_PLAN_ID-}" --arg version "${MAINTENANCE_VERSION-}" --argjson parameters "${PARAMETERS:-null}" '
    {service_id: $service}
    + if $plan == "" then {} else {plan_id: $plan} end
    + if $parameters == null then {} else {parameters: $parameters} end
    + if $version == "" then {} else {maintenance_info: {version: $version}} end
  ')"
