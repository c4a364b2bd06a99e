#!/usr/bin/env bash
# What scripts/services.sh promises, shown on a set of its own: other ports, another directory. usage: services-test.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

# shellcheck source=scripts/services/use.sh
. "$ROOT/scripts/services/use.sh"

directory=$(mktemp -d)
SERVICES_PORT_BASE=$(free_port_base 12000 8000 4000)
export SERVICES_PORT_BASE SERVICES_STATE=$directory/state
port=$((SERVICES_PORT_BASE + 379))
bystander=""
trap 'scripts/services.sh stop redis redis-cluster kafka; [ -z "$bystander" ] || kill "$bystander"; rm -rf "$directory"' EXIT

services() { scripts/services.sh "$@"; }
# usage: ask [SECONDS]
ask() { timeout "${1:-1}" redis-cli -h 127.0.0.1 -p "$port" PING 2>/dev/null || true; }
pid() { services status redis | sed -n 's/^redis: pid \([0-9]*\),.*/\1/p'; }

# usage: expect WHAT PATTERN SEEN
expect() {
    # shellcheck disable=SC2053 # a pattern it is
    [[ $3 == $2 ]] || fail "$1: expected '$2', got '$3'"
    echo "ok: $1"
}

# usage: refused WHAT SENTENCE COMMAND...; the command must end with exit code 1 and say the sentence.
refused() {
    local what=$1 sentence=$2 said code=0
    shift 2
    said=$("$@" 2>&1) || code=$?
    expect "$what is refused" "1 *$sentence*" "$code $said"
}

# What has to be fetched once is told here, and not among the answers that are compared.
services install redis
services install kafka
expect "a first start says so" "started redis" "$(services start redis)"
first=$(pid)
expect "a second start does nothing" "" "$(services start redis)"
expect "it is the same process" "$first" "$(pid)"
expect "it answers" PONG "$(ask 30)"

refused "a taken port" "port $port is taken by another process" env SERVICES_STATE="$directory/other" scripts/services.sh start redis
expect "a stop from another directory leaves it alone" "$first" "$(SERVICES_STATE=$directory/other scripts/services.sh stop redis; pid)"

services pause redis
expect "a paused one says so" "redis: pid $first, * MiB, paused" "$(services status redis)"
expect "a paused one does not answer" "" "$(ask)"
refused "a start of a paused one" "redis is paused" scripts/services.sh start redis
services resume redis
expect "it goes on after resume" PONG "$(ask 30)"

services kill redis
expect "a killed one is gone" "redis: not running" "$(services status redis)"
refused "a killed one cannot be paused" "redis does not run" scripts/services.sh pause redis

services start redis >"$directory/one" &
one=$!
services start redis >"$directory/two"
wait "$one"
expect "of two callers at once one starts it" "started redis" "$(cat "$directory/one" "$directory/two")"

services stop redis
expect "a stopped one does not answer" "" "$(ask)"
sleep 1000 &
bystander=$!
echo "$bystander 1" >"$SERVICES_STATE/redis/pid"
expect "a reused pid is not the service" "redis: not running" "$(services status redis)"
services kill redis
services stop redis
kill -0 "$bystander" || fail "a process that only has a service's old pid was signalled"
echo "ok: a process that only has a service's old pid is left alone"

refused "a service that ends while it starts" "kafka ended while starting" env SERVICES_KAFKA_HEAP=1m scripts/services.sh start kafka
expect "a failed start leaves no process" "kafka: not running" "$(services status kafka)"

services start redis-cluster >"$directory/cluster"
services kill redis-cluster-2
expect "one part of three was killed" "*-1: pid * redis-cluster-2: not running *-3: pid *" "$(services status redis-cluster | tr '\n' ' ')"
services reset redis-cluster
expect "a reset leaves no data" "" "$(find "$SERVICES_STATE" -name nodes.conf)"

refused "an unknown service" "there is no service 'postgres'" scripts/services.sh start postgres
refused "an unknown command" "there is no command 'strat'" scripts/services.sh strat redis
