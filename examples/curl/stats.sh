#!/usr/bin/env bash
# What each node of INSTANCE_ID counts.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID
call GET "$instance/actions/stats"
