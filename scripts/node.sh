#!/usr/bin/env bash
# The official JavaScript client and a real browser against the real binary.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT/tests/js"

export CHATIFY_BIN=${CHATIFY_BIN:-$ROOT/target/debug/chatify}
[ -x "$CHATIFY_BIN" ] || fail "$CHATIFY_BIN is missing: build it first"

need node nodejs npm
need npm npm
[ "$(node --print 'process.versions.node.split(".")[0] >= 20')" = true ] || fail "Node $(node --version) is too old: 20 is needed"
[ -n "${CHROMIUM_BIN:-}" ] || need chromium chromium fonts-liberation

# Installed again only when the lock file changed.
if ! cmp -s package-lock.json node_modules/.installed-lock; then
    quietly npm ci --ignore-scripts --no-audit --no-fund || fail "npm ci failed"
    cp package-lock.json node_modules/.installed-lock
fi
npm test --silent || fail "a Node suite failed"
