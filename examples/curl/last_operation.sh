#!/usr/bin/env bash
# How the latest operation on INSTANCE_ID stands, or OPERATION, as it was answered.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID
call GET "$instance/last_operation${OPERATION:+?operation=$(uri "$OPERATION")}"
