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
