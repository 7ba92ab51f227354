#!/usr/bin/env bash
# Orders an instance: INSTANCE_ID; SERVICE_ID and PLAN_ID of the catalog; PARAMETERS as JSON.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID SERVICE_ID PLAN_ID
PARAMETERS=${PARAMETERS:-'{}'}
call PUT "$instance?accepts_incomplete=true$webhook" "$(jq --null-input --arg service "$SERVICE_ID" --arg plan "$PLAN_ID" \
  --argjson parameters "$PARAMETERS" '{
    service_id: $service, plan_id: $plan, parameters: $parameters,
    context: {platform: "example", instance_name: "example"},
    organization_guid: "example-org", space_guid: "example-space"
  }')"
