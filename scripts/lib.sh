# Shared by the scripts here: one line per step, one clear sentence per failure. Sourced, never run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TERM_PROGRESS_WHEN=never

# Says what begins now.
step() {
    printf '\n==> %s\n' "$*"
}

# Ends everything with a sentence and the exit code 1.
fail() {
    printf '\nFAILED: %s\n' "$*" >&2
    exit 1
}

# Runs a command silently; shows what it said only when it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# Installs Debian packages, as root or through sudo.
install_packages() {
    local as_root=()
    command -v apt-get >/dev/null 2>&1 || fail "this is no Debian: install $* yourself, then run this again"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || fail "$* must be installed, and there is neither root nor sudo here"
        as_root=(sudo -n)
    fi
    echo "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    # The package lists of a fresh machine are empty or old, so a second try reads them anew.
    if ! "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; then
        quietly "${as_root[@]}" apt-get update -qq || fail "apt-get update failed"
        quietly "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" || fail "cannot install $*"
    fi
}

# usage: need COMMAND PACKAGE...; a no-op when the command is there already.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null 2>&1 || install_packages "$@"
}

# A server of its own for a script: a free port, an empty data directory, no limit on sends. Sets `address`, `data` and `server`, exports
# what further commands of the binary need, and ends the server with the script.
start_server() {
    local binary=$1 tries=0
    [ -x "$binary" ] || fail "$binary is missing: build it first"
    need curl curl ca-certificates
    data=$(mktemp -d)
    export CHATIFY__SERVER__DATA_DIR=$data CHATIFY__SERVER__LISTEN=127.0.0.1:0 CHATIFY__LIMITS__SEND_MESSAGES=1000000
    "$binary" serve >"$data/log" 2>&1 &
    server=$!
    trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -rf "$data"' EXIT
    until [ -s "$data/listening" ] && address=$(cat "$data/listening") && curl -fsS "http://$address/health/ready" >/dev/null 2>&1; do
        kill -0 "$server" 2>/dev/null || { cat "$data/log" >&2; fail "the server ended while starting"; }
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { cat "$data/log" >&2; fail "the server is not ready after 30 s"; }
        sleep 0.1
    done
}

# Python with exactly the packages of scripts/requirements.txt, in target/python.
install_python_tools() {
    need python3 python3 python3-venv
    local wanted=$ROOT/scripts/requirements.txt environment=$ROOT/target/python made
    # Programs of an environment know where it was made: one that was moved is made anew.
    made="# $environment"$'\n'"$(<"$wanted")"
    if [ "$(cat "$environment/made" 2>/dev/null)" = "$made" ]; then
        return
    fi
    rm -rf "$environment"
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    quietly python3 -m venv "$environment" || fail "python3 cannot make a virtual environment"
    quietly "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted" ||
        fail "the packages of scripts/requirements.txt cannot be installed"
    echo "$made" >"$environment/made"
}
