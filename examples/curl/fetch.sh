#!/usr/bin/env bash
# INSTANCE_ID as it was ordered.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID
call GET "$instance"
