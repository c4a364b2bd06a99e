#!/usr/bin/env bash
# A cluster on one machine: Kafka, Cassandra, Redis, and three pods behind distinct ports. Ctrl-C ends the pods, and those services that
# this script started.
#
# usage: cluster.sh           run until Ctrl-C, with a line for each pod that ends before
#        cluster.sh --check   send on one pod, read on another, and end: the exit code says whether that worked
#
#   CLUSTER_PORT=8081    of the first pod; the others follow
#   CLUSTER_PODS=3       how many
#   CHATIFY_BIN=...      the binary; otherwise the quick build of this tree
#   SERVICES_PORT_BASE   another set of services, see scripts/services.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/services/use.sh
. "$ROOT/scripts/services/use.sh"
cd "$ROOT"

PODS=${CLUSTER_PODS:-3}
PORT=${CLUSTER_PORT:-8081}
BINARY=${CHATIFY_BIN:-$ROOT/target/debug/chatify}
READY_SECONDS=120
# Logs and the key that all pods share. Tokens stay valid from one run to the next, as the messages do.
directory=$ROOT/target/cluster${CLUSTER_PORT:+-$CLUSTER_PORT}
pods=()

# Asks all, waits for all, and cuts off who is not gone after the drain. What was said before this is the last word of the script.
finish() {
    local code=$? pod tries=0
    trap '' INT TERM
    [ ${#pods[@]} -eq 0 ] || kill "${pods[@]}" 2>/dev/null || true
    for pod in "${pods[@]}"; do
        while kill -0 "$pod" 2>/dev/null && [ "$tries" -lt 200 ]; do
            tries=$((tries + 1))
            sleep 0.1
        done
        kill -KILL "$pod" 2>/dev/null || true
    done
    release_services
    exit "$code"
}

build() {
    [ -z "${CHATIFY_BIN:-}" ] || return 0
    need cc build-essential
    command -v cargo >/dev/null 2>&1 || fail "Rust is missing: install it as https://rustup.rs says, then run this again"
    echo "building (a few minutes the first time)"
    cargo build --quiet --locked --package chatify-host --bin chatify || fail "the build failed, see above"
}

# What all pods have in common, as environment: the same that `chatify token` needs.
configure() {
    mkdir -p "$directory"
    if [ ! -s "$directory/auth.key" ]; then
        (umask 077 && head -c 48 /dev/urandom | base64 >"$directory/auth.key")
    fi
    eval "$(scripts/services.sh env)"
    export CHATIFY__PROFILE=cluster
    export CHATIFY__AUTH__KEY_FILE=$directory/auth.key
    export CHATIFY__MESSAGE_BROKER__BOOTSTRAP_SERVERS=$CHATIFY_TEST_KAFKA
    export CHATIFY__SCYLLA__CONTACT_POINTS=$CHATIFY_TEST_CQL
    # One node of each can hold one copy.
    export CHATIFY__SCYLLA__REPLICATION_FACTOR=1
    export CHATIFY__CACHING__CONNECTION_STRING=$CHATIFY_TEST_REDIS
    # This is a machine to try things on, and Ctrl-C should not take long.
    export CHATIFY__SERVER__PLAYGROUND=true
    export CHATIFY__SERVER__DRAIN_WINDOW=1s
}

# usage: start_pod NUMBER. In a session of its own, so that Ctrl-C reaches this script alone, which then asks each pod once.
start_pod() {
    local name=pod-$1 port=$((PORT + $1 - 1))
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        fail "port $port is taken by another process; CLUSTER_PORT names the first of $PODS others"
    fi
    mkdir -p "$directory/$name"
    CHATIFY__SERVER__POD_ID=$name CHATIFY__SERVER__LISTEN=127.0.0.1:$port CHATIFY__SERVER__DATA_DIR=$directory/$name \
        setsid "$BINARY" serve >"$directory/$name.log" 2>&1 </dev/null &
    pods+=($!)
}

# usage: await_pod NUMBER
await_pod() {
    local tries=$((READY_SECONDS * 10)) log=$directory/pod-$1.log
    until curl -fsS "http://127.0.0.1:$((PORT + $1 - 1))/health/ready" >/dev/null 2>&1; do
        kill -0 "${pods[$1 - 1]}" 2>/dev/null || { tail -n 5 "$log" >&2; fail "pod-$1 ended while starting, see $log"; }
        [ "$tries" -gt 0 ] || { tail -n 5 "$log" >&2; fail "pod-$1 is not ready after $READY_SECONDS s, see $log"; }
        tries=$((tries - 1))
        sleep 0.1
    done
}

how_to_try() {
    local number last=$((PORT + PODS - 1))
    printf '\nThe cluster runs: Kafka on %s, Cassandra on %s, %s.\n' "$CHATIFY_TEST_KAFKA" "$CHATIFY_TEST_CQL" "$CHATIFY_TEST_REDIS"
    for number in $(seq "$PODS"); do
        echo "  pod-$number  http://localhost:$((PORT + number - 1))  process ${pods[$number - 1]}, log ${directory#"$ROOT/"}/pod-$number.log"
    done
    cat <<END

Chat as two people, each window on another pod:
  http://localhost:$PORT/#alice=$alice&bob=$bob
  http://localhost:$last/#alice=$alice&bob=$bob

Follow a channel on the last pod:
  export TOKEN=$alice
  curl -N -H "Authorization: Bearer \$TOKEN" http://localhost:$last/api/scopes/Channel/general/events

Say something on the first, and read it on the last:
  curl -H "Authorization: Bearer \$TOKEN" -H 'Content-Type: application/json' \\
    -d '{"text":"hello"}' http://localhost:$PORT/api/scopes/Channel/general/messages
  curl -H "Authorization: Bearer \$TOKEN" http://localhost:$last/api/scopes/Channel/general/messages

Take a pod away; the others go on:
  kill -9 ${pods[0]}

Ctrl-C ends the pods and what was started for them; what was accepted stays.
END
}

# Sends on one pod and reads the same on every other.
check() {
    local scope number read sent
    scope=Channel/check-$$-$SECONDS
    for number in $(seq "$PODS"); do
        sent=$(curl -fsS -H "Authorization: Bearer $alice" -H 'Content-Type: application/json' -d "{\"text\":\"from pod $number\"}" \
            "http://127.0.0.1:$((PORT + number - 1))/api/scopes/$scope/messages") || fail "pod-$number refused a message"
        [[ $sent == *'"position":'* ]] || fail "pod-$number answered without a position"
        # A pod that is behind the others says so, and is asked again.
        for _ in {1..30}; do
            read=$(curl -fsS -H "Authorization: Bearer $alice" "http://127.0.0.1:$((PORT + number % PODS))/api/scopes/$scope/messages") ||
                fail "pod-$((number % PODS + 1)) refused to read"
            [[ $read == *'"complete":false'* ]] || break
        done
        [[ $read == *"from pod $number"* ]] || fail "pod-$((number % PODS + 1)) does not show what pod-$number accepted"
    done
    echo "ok: what each of $PODS pods accepted, the next one shows"
}

# Says which pod ended, until none is left. Bash's own sentence about a killed process would show its whole command.
watch() {
    local ended number
    while { wait -n -p ended "${pods[@]}"; } 2>/dev/null || [ -n "${ended:-}" ]; do
        for number in "${!pods[@]}"; do
            [ "${pods[$number]}" != "$ended" ] || { echo "pod-$((number + 1)) ended"; unset "pods[$number]"; }
        done
        [ ${#pods[@]} -gt 0 ] || fail "no pod is left"
    done
}

case ${1:-} in
'' | --check) ;;
*) fail "there is no option '$1', see scripts/cluster.sh" ;;
esac
need curl curl ca-certificates
trap finish EXIT
# This is how it ends.
trap 'exit 0' INT
trap 'exit 143' TERM
build
use_services kafka cassandra redis
configure
for number in $(seq "$PODS"); do start_pod "$number"; done
for number in $(seq "$PODS"); do await_pod "$number"; done
alice=$("$BINARY" token --user alice)
bob=$("$BINARY" token --user bob)
if [ "${1:-}" = --check ]; then
    check
else
    how_to_try
    watch
fi
