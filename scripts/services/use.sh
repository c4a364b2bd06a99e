# For scripts that need services for a while: those that do not run yet are started, and only those are stopped again. Sourced, never run.
# shellcheck shell=bash
set -euo pipefail

used_services=()

# usage: use_services SERVICE...; the caller's EXIT trap calls release_services, which also holds for a start that fails.
use_services() {
    local service
    for service in "$@"; do
        "$ROOT/scripts/services.sh" running "$service" || used_services+=("$service")
        "$ROOT/scripts/services.sh" start "$service"
    done
}

release_services() {
    [ ${#used_services[@]} -eq 0 ] || "$ROOT/scripts/services.sh" stop "${used_services[@]}"
    used_services=()
}

# usage: free_ports "STEP..." BASE...; prints the first base for which nobody listens on any of base + step.
free_ports() {
    local steps=$1 base step
    shift
    for base in "$@"; do
        for step in $steps; do
            # A connection that is taken means that the port is, too.
            ! (exec 3<>"/dev/tcp/127.0.0.1/$((base + step))") 2>/dev/null || continue 2
        done
        echo "$base"
        return
    done
    fail "all ports that the services could have are taken by other processes"
}

# usage: free_port_base BASE...; for services of one's own, see SERVICES_PORT_BASE.
free_port_base() {
    free_ports "379 389 479 480 481 489 490 491 579 1000 1100 3042 3052 3092 3093 3192 3193 3194 3202 3203 3204 3212 3213 3214 3230 3231 3232 3292 3293 3294 3295 3296" "$@"
}
