#!/usr/bin/env bash
# The OpenAPI document of an ACTION of INSTANCE_ID: flush, stats, restart, list_backups, create_backup, get_backup or
# restore_backup.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID ACTION
call GET "$instance/actions/$(uri "$ACTION")/schema"
