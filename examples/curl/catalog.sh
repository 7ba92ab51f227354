#!/usr/bin/env bash
# What may be ordered, and the entity tag of that. With ETAG, the one of an answer before: 304 if nothing changed since.
source "$(dirname "$0")/call.sh"

call GET /v2/catalog "" ${ETAG:+"If-None-Match: $ETAG"}
