#!/usr/bin/env bash
# Fills INSTANCE_ID from the backup that BACKUP names. Its address changes: bind again afterwards.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID BACKUP
call PUT "$instance/actions/backups/$(uri "$BACKUP")$only_webhook"
