# Redis: one server, one with TLS and a password, or a cluster of three masters; none keeps anything on disk. Sourced by services.sh, never run.
# shellcheck shell=bash
set -euo pipefail

redis_install() {
    ! command -v redis-server >/dev/null || ! command -v redis-cli >/dev/null || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "redis-server is missing: install Debian's packages redis-server and redis-tools"
    fi
    echo "installing redis-server"
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get update -qq || fail "apt-get update failed"
    # Without a run level Debian's package would start a server of its own on the default port.
    RUNLEVEL=1 quietly apt-get install -y -qq --no-install-recommends redis-server redis-tools || fail "cannot install redis-server"
}

# usage: redis_launch NAME PORT [SETTING...]; returns once it answers.
redis_launch() {
    local name=$1 port=$2 directory=$STATE/$1
    shift 2
    ! running_pid "$name" >/dev/null || return 0
    need_port "$port"
    launch "$name" redis-server --port "$port" --bind 127.0.0.1 --dir "$directory" --save '' --appendonly no --daemonize no "$@"
    await "$name" redis_probe "$port" PING PONG
}

# usage: redis_probe PORT COMMAND PATTERN [OPTION...]; waits until the answer holds the pattern.
redis_probe() {
    local tries=$((START_TIMEOUT * 10)) port=$1 command=$2 pattern=$3
    shift 3
    # shellcheck disable=SC2086 # the command is words
    until redis-cli -h 127.0.0.1 -p "$port" "$@" $command 2>/dev/null | grep -q "$pattern"; do
        [ "$tries" -gt 0 ] || return 1
        tries=$((tries - 1))
        sleep 0.1
    done
}

redis_secure_start() {
    local directory=$STATE/redis-secure
    ! running_pid redis-secure >/dev/null || return 0
    need_port "$REDIS_SECURE_PORT"
    certificates "$directory/tls"
    launch redis-secure redis-server --port 0 --tls-port "$REDIS_SECURE_PORT" --bind 127.0.0.1 --dir "$directory" --save '' \
        --appendonly no --daemonize no --tls-auth-clients no --tls-cert-file tls/server.pem --tls-key-file tls/server.key \
        --tls-ca-cert-file tls/authority.pem --user default off --user "$SECURE_USER" on ">$SECURE_PASSWORD" '~*' '&*' +@all
    await redis-secure redis_secure_probe
}

redis_secure_probe() {
    export REDISCLI_AUTH=$SECURE_PASSWORD
    redis_probe "$REDIS_SECURE_PORT" PING PONG --tls --cacert "$STATE/redis-secure/tls/authority.pem" --user "$SECURE_USER"
}

# usage: redis_cluster_launch NODE
redis_cluster_launch() {
    local port=$((REDIS_CLUSTER_PORT + $1 - 1))
    redis_launch "redis-cluster-$1" "$port" --cluster-enabled yes --cluster-config-file nodes.conf --cluster-node-timeout 2000 \
        --cluster-port $((port + 10))
}

redis_cluster_bootstrap() {
    echo "127.0.0.1:$REDIS_CLUSTER_PORT,127.0.0.1:$((REDIS_CLUSTER_PORT + 1)),127.0.0.1:$((REDIS_CLUSTER_PORT + 2))"
}

# Every master must call the cluster whole, or a client that asks the slowest one is refused.
redis_cluster_probe() {
    local node
    for node in 0 1 2; do
        redis_probe $((REDIS_CLUSTER_PORT + node)) "CLUSTER INFO" cluster_state:ok || return 1
    done
}

redis_cluster_start() {
    local node
    for node in 1 2 3; do redis_cluster_launch "$node"; done
    if ! redis-cli -p "$REDIS_CLUSTER_PORT" CLUSTER INFO | grep -q 'cluster_known_nodes:[2-9]'; then
        # shellcheck disable=SC2046 # addresses are words
        quietly redis-cli --cluster create $(redis_cluster_bootstrap | tr , ' ') --cluster-yes || give_up "the Redis cluster cannot be formed"
    fi
    await redis-cluster redis_cluster_probe
}
