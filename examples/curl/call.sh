# Read by the scripts beside it: one call to the broker.
#
#   export BROKER_URL=https://localhost:8443 BROKER_USER=platform BROKER_PASSWORD=...
#   examples/curl/catalog.sh
#
# BROKER_CA names a PEM file that the broker's certificate is checked against, API_VERSION the version that is spoken.
# WEBHOOK and SECRET say who is told that the work ended, and how that is signed. Needs curl 7.83 and jq.
set -euo pipefail

# need NAME...: ends unless those variables are set.
need() {
  local name
  for name in "$@"; do
    [[ -n ${!name-} ]] || { echo "${0##*/}: set $name" >&2; exit 2; }
  done
}

uri() { jq --null-input --raw-output --arg text "$1" '$text | @uri'; }

# call METHOD PATH [BODY [HEADER...]]: prints the status, the entity tag if there is one, and the body; ends with 3 if the
# broker refused. The password goes in by a pipe: arguments show in process lists.
call() {
  local method=$1 path=$2 body=${3-} user="$BROKER_USER:$BROKER_PASSWORD" answer told header
  local -a options=(--silent --show-error --compressed --request "$method" --config -
    --write-out '\n%{http_code} %header{etag}' --header "X-Broker-API-Version: ${API_VERSION:-2.17}")
  [[ -z ${BROKER_CA-} ]] || options+=(--cacert "$BROKER_CA")
  [[ -z $body ]] || options+=(--header 'Content-Type: application/json' --data "$body")
  for header in "${@:4}"; do options+=(--header "$header"); done
  user=${user//\\/\\\\}
  answer=$(printf 'user = "%s"\n' "${user//\"/\\\"}" | curl "${options[@]}" "${BROKER_URL%/}$path")
  told=${answer##*$'\n'}
  echo "$told"
  [[ -z ${answer%$'\n'*} ]] || jq . <<<"${answer%$'\n'*}"
  [[ $told == [123]* ]] || exit 3
}

need BROKER_URL BROKER_USER BROKER_PASSWORD
instance=/v2/service_instances/$(uri "${INSTANCE_ID-}")
binding=$instance/service_bindings/$(uri "${BINDING_ID-}")
ids="service_id=$(uri "${SERVICE_ID-}")&plan_id=$(uri "${PLAN_ID-}")"
webhook=${WEBHOOK:+&webhook=$(uri "$WEBHOOK")&secret=$(uri "${SECRET-}")}
# The same, where it is all that the query says.
only_webhook=${webhook:+?${webhook#&}}
