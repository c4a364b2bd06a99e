# Processes of services.sh: started apart from the caller, found again by pid and start time, never mistaken for another. Sourced, never run.
# shellcheck shell=bash
set -euo pipefail

pid_file() { echo "$STATE/$1/pid"; }

# The moment a process started, in clock ticks since boot: field 22 of its stat line, counted after the command name, which may hold
# spaces. Prints `gone` for a process that is no more or only waits to be reaped.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || { echo gone; return; }
    # shellcheck disable=SC2086 # split into fields
    set -- ${stat##*) }
    case $1 in
    Z | X) echo gone ;;
    *) echo "${20}" ;;
    esac
}

# usage: running_pid NAME; prints the pid when the process of the pid file is still the one started here: a pid alone may have gone to
# some other program since.
running_pid() {
    local file pid started
    file=$(pid_file "$1")
    [ -f "$file" ] && read -r pid started <"$file" || return 1
    [ "$started" != gone ] && [ "$(start_time "$pid")" = "$started" ] || return 1
    echo "$pid"
}

# usage: paused NAME
paused() {
    local pid
    pid=$(running_pid "$1") && grep -q '^State:[[:space:]]*T' "/proc/$pid/status"
}

# usage: launch NAME COMMAND...; in the background, in a session of its own, its output in its log.
launch() {
    local name=$1 directory=$STATE/$1
    shift
    mkdir -p "$directory"
    # The lock must not live on in the service.
    (cd "$directory" && exec setsid "$@") >>"$directory/log" 2>&1 </dev/null 9>&- &
    echo "$! $(start_time $!)" >"$directory/pid"
    launched+=("$name")
}

# usage: signal NAME SIGNAL; fails when it does not run.
signal() {
    local pid
    pid=$(running_pid "$1") && kill "-$2" "$pid"
}

# usage: wait_gone NAME SECONDS
wait_gone() {
    local tries=$(($2 * 10))
    while running_pid "$1" >/dev/null; do
        [ "$tries" -gt 0 ] || return 1
        tries=$((tries - 1))
        sleep 0.1
    done
    rm -f "$(pid_file "$1")"
}

# usage: stop_all NAME...; asks all at once, because brokers that vote need each other to leave in good order.
stop_all() {
    local name
    for name in "$@"; do
        signal "$name" CONT || true
        signal "$name" TERM || true
    done
    for name in "$@"; do
        wait_gone "$name" "$STOP_TIMEOUT" || kill_one "$name"
    done
}

kill_one() {
    signal "$1" KILL || return 0
    wait_gone "$1" 10 || fail "$1 does not end"
}

need_port() {
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
        give_up "port $1 is taken by another process; SERVICES_PORT_BASE moves all ports"
    fi
}

# Ends with a sentence, and ends first what this call has started: a failed start leaves nothing behind.
give_up() {
    stop_all "${launched[@]}"
    fail "$@"
}

# A probe is a shell and the program that it waits for; both are to end.
end_probe() {
    local child children
    children=$(cat "/proc/$1/task/$1/children" 2>/dev/null) || true
    for child in $children "$1"; do
        kill "$child" 2>/dev/null || true
    done
}

# usage: await SERVICE COMMAND...; runs the command, which waits for the service; gives up once one of the service's processes has ended.
await() {
    local service=$1 probe part
    shift
    # Neither may the lock live on in the probe.
    "$@" >"$STATE/$service.probe" 2>&1 9>&- &
    probe=$!
    while kill -0 "$probe" 2>/dev/null; do
        for part in $(parts "$service"); do
            running_pid "$part" >/dev/null && continue
            end_probe "$probe"
            tail -n 5 "$STATE/$part/log" >&2
            give_up "$part ended while starting, see $STATE/$part/log"
        done
        sleep 0.2
    done
    wait "$probe" || { cat "$STATE/$service.probe" >&2; give_up "$service does not answer after $START_TIMEOUT s, its log is under $STATE"; }
    rm -f "$STATE/$service.probe"
}
