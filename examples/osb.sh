#!/usr/bin/env bash
# Orders a cache over the Open Service Broker API, binds it, and gives it back.
#
#   BROKER_URL=https://localhost:8443 BROKER_USER=platform BROKER_PASSWORD=... examples/osb.sh
#
# SERVICE and PLAN choose what is ordered, PARAMETERS is JSON for the plan, TIMEOUT the seconds to wait for each
# operation, POLL_SECONDS how long between two polls.
# BROKER_CA names a PEM file that the broker's certificate is checked against. Needs curl and jq.
set -euo pipefail

: "${BROKER_URL:?set BROKER_URL, such as https://localhost:8443}"
: "${BROKER_USER:?set BROKER_USER to a user of the credentials file}"
: "${BROKER_PASSWORD:?set BROKER_PASSWORD to the password of that user}"
SERVICE=${SERVICE:-akkeris-memcached}
PLAN=${PLAN:-example-memcached}
PARAMETERS=${PARAMETERS:-'{}'}
TIMEOUT=${TIMEOUT:-1800}

instance=${INSTANCE_ID:-$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)}
binding=${BINDING_ID:-$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)}

say() { printf '\n== %s\n' "$*" >&2; }
fail() { printf 'osb.sh: %s\n' "$*" >&2; exit 1; }

status=
answer=
# call METHOD PATH [BODY]: sets status and answer. The password goes in by a pipe: arguments show in process lists.
call() {
  local method=$1 path=$2 body=${3-} out
  local -a options=(--silent --show-error --request "$method" --write-out '\n%{http_code}' --config -
    --header 'X-Broker-API-Version: 2.17' --header 'Accept: application/json')
  [[ -z ${BROKER_CA-} ]] || options+=(--cacert "$BROKER_CA")
  [[ -z $body ]] || options+=(--header 'Content-Type: application/json' --data "$body")
  local user="$BROKER_USER:$BROKER_PASSWORD"
  user=${user//\\/\\\\}
  out=$(printf 'user = "%s"\n' "${user//\"/\\\"}" | curl "${options[@]}" "${BROKER_URL%/}$path") ||
    fail "no answer to $method $path"
  status=${out##*$'\n'}
  answer=${out%$'\n'*}
}

# expect STATUS...: ends unless the last call was answered so.
expect() {
  local wanted
  for wanted in "$@"; do [[ $status != "$wanted" ]] || return 0; done
  fail "answered $status: $answer"
}

field() { jq --raw-output "$1 // empty" <<<"$answer"; }

# wait_for WHAT: polls until the operation that was just accepted ends. A 410 ends a deprovision well.
wait_for() {
  local what=$1 operation query state deadline=$((SECONDS + TIMEOUT))
  operation=$(field .operation)
  query="service_id=$service_id&plan_id=$plan_id"
  [[ -z $operation ]] || query+="&operation=$(jq --null-input --raw-output --arg o "$operation" '$o | @uri')"
  while ((SECONDS < deadline)); do
    call GET "/v2/service_instances/$instance/last_operation?$query"
    [[ $status != 410 || $what != deprovision ]] || { echo "gone" >&2; return 0; }
    expect 200
    state=$(field .state)
    printf '%s: %s %s\n' "$what" "$state" "$(field .description)" >&2
    case $state in
      succeeded) return 0 ;;
      failed) fail "$what failed: $(field .description)" ;;
    esac
    sleep "${POLL_SECONDS:-2}"
  done
  fail "$what did not end within $TIMEOUT seconds; instance $instance is still there"
}

say "catalog"
call GET /v2/catalog
expect 200
service_id=$(jq --raw-output --arg s "$SERVICE" '.services[] | select(.name == $s) | .id' <<<"$answer")
[[ -n $service_id ]] || fail "no service $SERVICE; there are: $(jq --raw-output '[.services[].name] | join(", ")' <<<"$answer")"
plan_id=$(jq --raw-output --arg s "$SERVICE" --arg p "$PLAN" \
  '.services[] | select(.name == $s) | .plans[] | select(.name == $p) | .id' <<<"$answer")
[[ -n $plan_id ]] || fail "no plan $PLAN; $SERVICE has: $(jq --raw-output --arg s "$SERVICE" \
  '[.services[] | select(.name == $s) | .plans[].name] | join(", ")' <<<"$answer")"
echo "$SERVICE $service_id, $PLAN $plan_id"

say "provision $instance"
call PUT "/v2/service_instances/$instance?accepts_incomplete=true" "$(jq --null-input \
  --arg service "$service_id" --arg plan "$plan_id" --argjson parameters "$PARAMETERS" '{
    service_id: $service, plan_id: $plan, parameters: $parameters,
    context: {platform: "example", organization_name: "example-org", space_name: "default", instance_name: "osb-example"},
    organization_guid: "example-org", space_guid: "default"
  }')"
expect 200 201 202
echo "$status $answer"
[[ $status != 202 ]] || wait_for provision

say "bind $binding"
call PUT "/v2/service_instances/$instance/service_bindings/$binding?accepts_incomplete=true" "$(jq --null-input \
  --arg service "$service_id" --arg plan "$plan_id" \
  '{service_id: $service, plan_id: $plan, bind_resource: {app_guid: "example-app"}}')"
expect 200 201
jq . <<<"$answer"

say "unbind $binding"
call DELETE "/v2/service_instances/$instance/service_bindings/$binding?service_id=$service_id&plan_id=$plan_id&accepts_incomplete=true"
expect 200
echo "$status $answer"

say "deprovision $instance"
call DELETE "/v2/service_instances/$instance?service_id=$service_id&plan_id=$plan_id&accepts_incomplete=true"
expect 200 202
echo "$status $answer"
[[ $status != 202 ]] || wait_for deprovision

say "done"
