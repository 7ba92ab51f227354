#!/usr/bin/env bash
# Restarts the nodes of INSTANCE_ID.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID
call POST "$instance/actions/restart$only_webhook"
