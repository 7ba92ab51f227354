#!/usr/bin/env bash
# BINDING_ID of INSTANCE_ID as it was made.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID BINDING_ID
call GET "$binding"
