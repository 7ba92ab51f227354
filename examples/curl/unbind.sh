#!/usr/bin/env bash
# Ends BINDING_ID of INSTANCE_ID, which is of SERVICE_ID and PLAN_ID.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID BINDING_ID SERVICE_ID PLAN_ID
call DELETE "$binding?$ids&accepts_incomplete=true"
