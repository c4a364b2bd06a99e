#!/usr/bin/env bash
# Builds the binary whose bugs the fault suite must find, beside the real one: target/debug/chatify-seeded-bugs. What is named chatify
# afterwards is the real one again.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

build() {
    cargo build --workspace --bins --locked --quiet --features "chatify-host/kafka-tls,chatify-application/contract-tests$1"
}

build ",chatify-host/seeded-bugs"
cp target/debug/chatify target/debug/chatify-seeded-bugs
build ""
if grep -q CHATIFY_SEEDED_BUG target/debug/chatify; then
    fail "the real binary has bugs on purpose"
fi
