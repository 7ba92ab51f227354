#!/usr/bin/env bash
# Forgets everything that INSTANCE_ID holds.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID
call POST "$instance/actions/flush"
