#!/usr/bin/env bash
# How the latest operation on BINDING_ID of INSTANCE_ID stands, or OPERATION, as it was answered.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID BINDING_ID
call GET "$binding/last_operation${OPERATION:+?operation=$(uri "$OPERATION")}"
