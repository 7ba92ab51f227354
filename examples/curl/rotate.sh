#!/usr/bin/env bash
# Has BINDING_ID of INSTANCE_ID succeed the binding PREDECESSOR; both hold until that is unbound.
source "$(dirname "$0")/call.sh"

need INSTANCE_ID BINDING_ID PREDECESSOR
call PUT "$binding?accepts_incomplete=true$webhook" "$(jq --null-input --arg predecessor "$PREDECESSOR" '
    {predecessor_binding_id: $predecessor}
  ')"
