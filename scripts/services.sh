#!/usr/bin/env bash
# Real Kafka, Cassandra and Redis on this machine, without containers. All listen on the loopback interface only.
#
#   scripts/services.sh install SERVICE...   fetch what the services need; later runs do nothing
#   scripts/services.sh start   SERVICE...   install, start, and wait until the service really answers
#   scripts/services.sh stop    SERVICE...   ask it to end, and wait; what somebody else started is left alone
#   scripts/services.sh kill    SERVICE...   end it at once, as a crash would
#   scripts/services.sh pause   SERVICE...   freeze it, as a hung peer is
#   scripts/services.sh resume  SERVICE...   let it go on
#   scripts/services.sh reset   SERVICE...   stop it and wipe its data
#   scripts/services.sh status  [SERVICE...] one line for each process
#   scripts/services.sh running SERVICE...   say nothing; exit code 0 when all of them run
#   scripts/services.sh env                  shell lines that tell the tests where the services are
#   scripts/services.sh cql STATEMENT...     run CQL statements on the Cassandra node
#   scripts/services.sh kafka-tool CLASS...  run one of org.apache.kafka.tools, for example TopicCommand
#
# SERVICE is kafka (one broker), kafka3 (three), cassandra, redis, redis-cluster (three masters), or one part of the threes: kafka3-1 to
# -3, redis-cluster-1 to -3. A start of one broker of three returns at once, because it may have nobody to answer with. kafka-secure,
# cassandra-secure and redis-secure are single ones with TLS and passwords.
#
# A second set runs beside the first with SERVICES_PORT_BASE=24000, say: each port is a fixed step above the base (16000 when unset),
# and the data lies in a directory of its own. Ports up to base + 3300 are used. Further settings:
#   SERVICES_STATE            data, logs and pid files (target/services-state, with the base added when it is set)
#   SERVICES_CACHE            fetched jars (target/services)
#   SERVICES_JAVA_HOME        a JDK 17
#   SERVICES_START_TIMEOUT    seconds to wait for an answer (300)
#   SERVICES_KAFKA_HEAP       of the single broker (512m); SERVICES_KAFKA3_HEAP of each of three (384m); SERVICES_CASSANDRA_HEAP (512m)
#   SERVICES_KAFKA_LINK_PORT  each broker also listens twenty above its port and sends clients from there to this port (and the next two),
#                             where the caller has a proxy that can cut the link
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

FILES=$ROOT/scripts/services
CACHE=$(realpath -m "${SERVICES_CACHE:-$ROOT/target/services}")
STATE=$(realpath -m "${SERVICES_STATE:-$ROOT/target/services-state${SERVICES_PORT_BASE:+-$SERVICES_PORT_BASE}}")

base=${SERVICES_PORT_BASE:-16000}
REDIS_PORT=$((base + 379))
REDIS_CLUSTER_PORT=$((base + 479))      # this and the next two; their bus ten above
REDIS_SECURE_PORT=$((base + 579))
CASSANDRA_STORAGE_PORT=$((base + 1000)) # between nodes, if there were others
CASSANDRA_SECURE_STORAGE_PORT=$((base + 1100))
CASSANDRA_PORT=$((base + 3042))         # CQL
CASSANDRA_SECURE_PORT=$((base + 3052))
KAFKA_PORT=$((base + 3092))             # its controller one above
KAFKA3_PORT=$((base + 3192))            # this and the next two; their controllers ten above
KAFKA_SECURE_PORT=$((base + 3292))      # then its controller, TLS, SASL, SASL through TLS

START_TIMEOUT=${SERVICES_START_TIMEOUT:-300}
STOP_TIMEOUT=20
KAFKA_HEAP=${SERVICES_KAFKA_HEAP:-512m}
KAFKA3_HEAP=${SERVICES_KAFKA3_HEAP:-384m}
CASSANDRA_HEAP=${SERVICES_CASSANDRA_HEAP:-512m}
LINK_PORT=${SERVICES_KAFKA_LINK_PORT:-}
# What this call has started, so that a start that fails can take it back.
launched=()

# shellcheck source=scripts/services/process.sh
. "$FILES/process.sh"
# shellcheck source=scripts/services/certificates.sh
. "$FILES/certificates.sh"
# shellcheck source=scripts/services/java.sh
. "$FILES/java.sh"
# shellcheck source=scripts/services/kafka.sh
. "$FILES/kafka.sh"
# shellcheck source=scripts/services/cassandra.sh
. "$FILES/cassandra.sh"
# shellcheck source=scripts/services/redis.sh
. "$FILES/redis.sh"

# The service that a name belongs to.
family() {
    case $1 in
    kafka | kafka3 | kafka-secure | cassandra | cassandra-secure | redis | redis-secure | redis-cluster) echo "$1" ;;
    kafka3-[123] | redis-cluster-[123]) echo "${1%-*}" ;;
    *) fail "there is no service '$1', see scripts/services.sh" ;;
    esac
}

# The processes that a name stands for.
parts() {
    case $1 in
    kafka3 | redis-cluster) echo "$1-1 $1-2 $1-3" ;;
    *) echo "$1" ;;
    esac
}

running() {
    local part
    for part in $(parts "$1"); do
        running_pid "$part" >/dev/null || return 1
    done
}

install() {
    case $(family "$1") in
    kafka | kafka3 | kafka-secure) install_jars kafka KafkaReady.java ;;
    cassandra | cassandra-secure) install_jars cassandra Cql.java ;;
    redis | redis-secure | redis-cluster) redis_install ;;
    esac
}

# The pid files of a service's processes: equal to what was kept after the last answer as long as nobody restarted one.
incarnation() {
    local part
    for part in $(parts "$1"); do cat "$(pid_file "$part")"; done
}

start() {
    local part known=$STATE/$1.answered
    for part in $(parts "$1"); do
        ! paused "$part" || fail "$part is paused: scripts/services.sh resume $part"
    done
    if running "$1" && [ "$(cat "$known" 2>/dev/null)" = "$(incarnation "$1")" ]; then
        return 0
    fi
    install "$1"
    case $1 in
    kafka) kafka_start ;;
    kafka3) kafka3_start ;;
    kafka-secure) kafka_secure_start ;;
    kafka3-*) kafka3_launch "${1#kafka3-}" ;;
    cassandra | cassandra-secure) cassandra_start "$1" ;;
    redis) redis_launch redis "$REDIS_PORT" ;;
    redis-secure) redis_secure_start ;;
    redis-cluster) redis_cluster_start ;;
    redis-cluster-*) redis_cluster_launch "${1#redis-cluster-}" ;;
    esac
    incarnation "$1" >"$known"
    [ ${#launched[@]} -eq 0 ] || echo "started $1"
    launched=()
}

stop() {
    # shellcheck disable=SC2046 # names are words
    stop_all $(parts "$1")
}

reset() {
    local part
    stop "$1"
    for part in $(parts "$1"); do rm -rf "${STATE:?}/$part"; done
}

# usage: each COMMAND NAME [ARGUMENT...]; for every process that the name stands for.
each() {
    local part command=$1 name=$2
    shift 2
    for part in $(parts "$name"); do "$command" "$part" "$@"; done
}

# usage: must_signal NAME SIGNAL
must_signal() {
    signal "$1" "$2" || fail "$1 does not run"
}

# usage: freeze NAME; a process stops only when it gets onto a core after the signal.
freeze() {
    local tries=0
    must_signal "$1" STOP
    until paused "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "$1 does not freeze"
        sleep 0.05
    done
}

status() {
    local pid
    if pid=$(running_pid "$1"); then
        echo "$1: pid $pid, $(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status") MiB$(! paused "$1" || echo ', paused')"
    else
        echo "$1: not running"
    fi
}

# What changes a service as a whole waits for others that do so: two test programs that start the same one must not both start it.
locked() {
    local command=$1 service=$2
    mkdir -p "$STATE"
    {
        flock 9
        "$command" "$service"
    } 9>"$STATE/$(family "$service").lock"
}

environment() {
    cat <<END
export CHATIFY_TEST_KAFKA=127.0.0.1:$KAFKA_PORT
export CHATIFY_TEST_KAFKA3=$(kafka3_bootstrap)
export CHATIFY_TEST_KAFKA_TLS=127.0.0.1:$((KAFKA_SECURE_PORT + 2))
export CHATIFY_TEST_KAFKA_SASL=127.0.0.1:$((KAFKA_SECURE_PORT + 3))
export CHATIFY_TEST_KAFKA_SASL_TLS=127.0.0.1:$((KAFKA_SECURE_PORT + 4))
export CHATIFY_TEST_KAFKA_CERTIFICATES=$STATE/kafka-secure/tls
export CHATIFY_TEST_CQL=127.0.0.1:$CASSANDRA_PORT
export CHATIFY_TEST_CQL_SECURE=127.0.0.1:$CASSANDRA_SECURE_PORT
export CHATIFY_TEST_CQL_CERTIFICATES=$STATE/cassandra-secure/tls
export CHATIFY_TEST_REDIS=redis://127.0.0.1:$REDIS_PORT
export CHATIFY_TEST_REDIS_SECURE=rediss://$SECURE_USER:$SECURE_PASSWORD@127.0.0.1:$REDIS_SECURE_PORT
export CHATIFY_TEST_REDIS_CERTIFICATES=$STATE/redis-secure/tls
export CHATIFY_TEST_REDIS_CLUSTER=redis+cluster://$(redis_cluster_bootstrap)
END
}

# usage: perform COMMAND SERVICE
perform() {
    family "$2" >/dev/null
    case $1 in
    install) install "$2" ;;
    start | stop | reset) locked "$1" "$2" ;;
    kill) each kill_one "$2" ;;
    pause) each freeze "$2" ;;
    resume) each must_signal "$2" CONT ;;
    status) each status "$2" ;;
    running) running "$2" || exit 1 ;;
    *) fail "there is no command '$1', see scripts/services.sh" ;;
    esac
}

main() {
    local command=${1:-} service
    case $command in
    '')
        sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 2
        ;;
    env) environment ;;
    cql)
        install cassandra
        cql 10 "${@:2}"
        ;;
    kafka-tool)
        [ $# -gt 1 ] || fail "kafka-tool needs the name of a class"
        install kafka
        java_tool kafka "org.apache.kafka.tools.$2" "${@:3}"
        ;;
    *)
        shift
        [ "$command" != status ] || [ $# -gt 0 ] || set -- kafka kafka3 kafka-secure cassandra cassandra-secure redis redis-secure redis-cluster
        [ $# -gt 0 ] || fail "$command needs the name of a service"
        for service in "$@"; do perform "$command" "$service"; done
        ;;
    esac
}

main "$@"
