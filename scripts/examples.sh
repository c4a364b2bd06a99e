#!/usr/bin/env bash
# The examples of README.md and docs/PROTOCOL.md, taken out of the pages as they are and run against the real binary.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

BINARY=${CHATIFY_BIN:-$ROOT/target/debug/chatify}
# The page's packages: the JavaScript client is the one of tests/js, `websockets` is in scripts/requirements.txt.
PYTHON=$ROOT/target/python/bin/python
WORK=$ROOT/tests/js/node_modules/.examples

# usage: block PAGE LANGUAGE NUMBER; the page's addresses become the server's.
block() {
    awk -v language="$2" -v wanted="$3" '
        $0 == "```" language { open = 1; count++; next }
        /^```$/ { open = 0 }
        open && count == wanted { print; any = 1 }
        END { exit !any }' "$1" |
        sed -e "s|localhost:8080|$address|g" -e "s|target/debug/chatify|$BINARY|g" -e "s|(chatify token|($BINARY token|g" ||
        fail "$1 has no $2 example number $3"
}

# usage: says TEXT COMMAND...; runs an example that never ends until it has said this, for at most 20 s.
says() {
    local wanted=$1 tries=0 example
    shift
    "$@" >"$WORK/said" 2>&1 &
    example=$!
    until grep -qF -- "$wanted" "$WORK/said"; do
        tries=$((tries + 1))
        if [ "$tries" -ge 200 ] || ! kill -0 "$example" 2>/dev/null && ! grep -qF -- "$wanted" "$WORK/said"; then
            kill "$example" 2>/dev/null || true
            cat "$WORK/said" >&2
            fail "this example did not say '$wanted': $*"
        fi
        sleep 0.1
    done
    kill "$example" 2>/dev/null || true
    wait "$example" 2>/dev/null || true
    echo "ok: ${!#}" | sed "s|$WORK/||"
}

# Shell examples, all of a page in one shell. A stream (-N) never ends, so curl is stopped after two seconds (its code 28), and everything else must succeed.
shell_blocks() {
    local page=$1 number
    shift
    {
        echo 'set -euo pipefail'
        # shellcheck disable=SC2016
        echo 'stream() { command curl -fsS --max-time 2 "$@" || [ $? -eq 28 ]; }'
        # shellcheck disable=SC2016
        echo 'curl() { if [ "$1" = -N ]; then stream "$@"; else command curl -fsS --max-time 30 "$@"; fi; echo; }'
        for number in "$@"; do
            block "$page" sh "$number"
        done
    } >"$WORK/page.sh"
    bash "$WORK/page.sh" >"$WORK/said" 2>&1 || { cat "$WORK/page.sh" "$WORK/said" >&2; fail "a shell example of $page"; }
    echo "ok: $# shell examples of $page"
}

install_python_tools
start_server "$BINARY"
rm -rf "$WORK"
mkdir -p "$WORK"
TOKEN=$("$BINARY" token --user alice)
export TOKEN

# Negotiation comes before the page's own `AUTH=`, which is why the shell examples that need it follow in the page's order.
shell_blocks docs/PROTOCOL.md 1 2 3 4 5 6
shell_blocks README.md 2 3
block README.md js 1 >"$WORK/readme.mjs"
says "alice hello" node "$WORK/readme.mjs"
block docs/PROTOCOL.md js 1 >"$WORK/chat.mjs"
says "accepted at" node "$WORK/chat.mjs"
{
    block docs/PROTOCOL.md js 1
    block docs/PROTOCOL.md js 2
    echo "await follow(connection, 'http://$address/api', process.env.TOKEN, 'Channel', 'general', (m) => console.log('shown', m.text));"
} >"$WORK/follow.mjs"
says "shown hello" node "$WORK/follow.mjs"
block docs/PROTOCOL.md python 1 >"$WORK/chat.py"
says "alice hello from Python" "$PYTHON" -u "$WORK/chat.py"
block docs/PROTOCOL.md python 2 >"$WORK/send.py"
quietly "$PYTHON" "$WORK/send.py" || fail "the Python example of a send"
echo "ok: the Python example of a send"
