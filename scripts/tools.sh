#!/usr/bin/env bash
# What building and checking needs: a C compiler, OpenSSL's headers, the pinned Rust toolchain, and cargo-deny (built once into target/tools).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

CARGO_DENY=0.20.2

need cc build-essential
need make build-essential
# The tests build with `kafka-tls`, for which librdkafka needs OpenSSL; a build without it needs no more than a C compiler.
pkg-config --exists openssl 2>/dev/null || install_packages pkg-config libssl-dev
command -v cargo >/dev/null 2>&1 || fail "Rust is missing: install it as https://rustup.rs says, then run this again"
# The first call of a pinned toolchain downloads it; later calls only print its version.
cargo --version
rustfmt --version
cargo clippy --version

if [ "$(target/tools/bin/cargo-deny --version 2>/dev/null || true)" != "cargo-deny $CARGO_DENY" ]; then
    echo "building cargo-deny $CARGO_DENY (once, some minutes)"
    # Not optimised: it runs for a second, and building it is what costs.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked "cargo-deny@$CARGO_DENY" --root target/tools ||
        fail "cargo-deny $CARGO_DENY cannot be built"
fi
target/tools/bin/cargo-deny --version
