#!/usr/bin/env bash
# The backups of INSTANCE_ID, or the one that BACKUP names. Redis and valkey on ElastiCache have them.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID
call GET "$instance/actions/backups${BACKUP:+/$(uri "$BACKUP")}"
