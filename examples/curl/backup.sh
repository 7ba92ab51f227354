#!/usr/bin/env bash
# Makes a backup of INSTANCE_ID.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID
call POST "$instance/actions/backups$only_webhook"
