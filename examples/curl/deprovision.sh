#!/usr/bin/env bash
# Gives INSTANCE_ID of SERVICE_ID and PLAN_ID back. It is gone once last_operation.sh answers 410.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID SERVICE_ID PLAN_ID
call DELETE "$instance?$ids&accepts_incomplete=true$webhook"
