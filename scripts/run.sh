#!/usr/bin/env bash
# Builds and starts the server. Further arguments go to `chatify serve`. The quick build is the default, because it is there in half the time;
# PROFILE=release makes the one to measure and to deploy.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

need cc build-essential
command -v cargo >/dev/null 2>&1 || fail "Rust is missing: install it as https://rustup.rs says, then run this again"

PROFILE=${PROFILE:-dev}
case $PROFILE in
dev) binary=target/debug/chatify ;;
*) binary=target/$PROFILE/chatify ;;
esac
echo "building (a few minutes the first time)"
cargo build --profile "$PROFILE" --locked --package chatify-host --bin chatify || fail "the build failed, see above"
# The same process, so that Ctrl-C and signals reach the server and nothing in between.
exec "$binary" serve --welcome "$@"
