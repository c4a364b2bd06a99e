#!/usr/bin/env bash
# Everything that must hold before a change goes in. Stops at the first failure; every step also runs alone.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/services/use.sh
. "$ROOT/scripts/services/use.sh"
cd "$ROOT"
# Ends the services that this run has started, also after a failure; what ran before is left alone.
trap release_services EXIT

started=$SECONDS
# Tests that drive the real binary find it here.
export CHATIFY_BIN=$ROOT/target/debug/chatify
# Cases of each fuzz target that runs as an ordinary test (crates/host/src/fuzz.rs, crates/infrastructure/src/record).
export FUZZ_CASES=${FUZZ_CASES:-1000000}
# What the runners say is shown, and kept here for the summary at the end.
reports=$ROOT/target/reports
mkdir -p "$reports"
# One feature set for lints, build and tests, so that dependencies compile once for each. `seeded-bugs` is not in it: the binary that is tested is the one
# that is shipped; the suite that wants bugs builds its own.
features=(--features "chatify-host/kafka-tls,chatify-application/contract-tests")
everything=(--workspace "${features[@]}" --locked --quiet)

step "tools: compiler, formatter, lints, cargo-deny"
scripts/tools.sh

step "format: cargo fmt"
cargo fmt --all --check || fail "not formatted: run make fmt"

step "house rules: scripts/tidy.sh"
scripts/tidy.sh

step "layers, licences, sources: cargo deny and scripts/layers.sh"
scripts/layers.sh

step "lints: cargo clippy, warnings are errors"
cargo clippy "${everything[@]}" --all-targets -- -D warnings || fail "clippy has findings"

step "documentation: cargo doc, warnings are errors"
RUSTDOCFLAGS="-D warnings" cargo doc "${everything[@]}" --no-deps || fail "the documentation has broken links"

step "build: the binary and all tests"
cargo build "${everything[@]}" --bins --tests || fail "the build failed"

step "scripts/services.sh: what it promises"
scripts/services-test.sh

step "services: Kafka, Cassandra, Redis"
# What a developer has running is used; otherwise ports are chosen that nobody has.
if [ -z "${SERVICES_PORT_BASE:-}" ] && ! scripts/services.sh running kafka; then
    base=$(free_port_base 16000 20000 8000)
    [ "$base" = 16000 ] || export SERVICES_PORT_BASE=$base
fi
use_services kafka kafka-secure cassandra cassandra-secure redis redis-cluster
eval "$(scripts/services.sh env)"

# Not quiet: the names of the test binaries belong to their results. The tests inside them are.
run_tests() {
    cargo test --workspace "${features[@]}" --locked "$@" 2>&1
}
# The fault suite has a step of its own below; its own test takes long and has a command: make seeded-bugs.
faults=whatever_breaks_nothing_accepted_is_lost_repeated_or_reordered
bugs=every_seeded_bug_is_found

step "unit, contract, property and end-to-end tests: cargo test"
run_tests -- --quiet --skip "$faults" --skip "$bugs" | tee "$reports/rust" || fail "a Rust test failed"

step "end to end on three pods: the same suite with the cluster profile"
CHATIFY_TEST_PROFILE=cluster run_tests --test it -- --quiet | tee "$reports/rust-cluster" || fail "a Rust test failed on three pods"

step "three pods: what make cluster brings up"
CLUSTER_PORT=$(free_ports "0 1 2" 18081 18181 18281) scripts/cluster.sh --check

step "official JavaScript client and browser: npm test"
scripts/node.sh 2>&1 | tee "$reports/node" || fail "the JavaScript suites failed"

step "examples of README.md and docs/PROTOCOL.md"
scripts/examples.sh

step "OpenAPI against the running binary: schemathesis"
scripts/schemathesis.sh 2>&1 | tee "$reports/schemathesis" || fail "schemathesis failed"

# Last, because it wants three brokers, a store and a cache of its own, and the machine for itself.
release_services
step "fault suite: 24 faults under load, docs/RELIABILITY.md"
faults_base=$(free_port_base 24000 28000 20000 16000)
CHATIFY_TEST_FAULTS_PORT_BASE=$faults_base run_tests --test cluster "$faults" -- --quiet --nocapture \
    | tee "$reports/rust-faults" || fail "the promise did not hold: docs/RELIABILITY.md says how to repeat a run"

step "summaries of the runners"
awk '/^ +(Running|Doc-tests) / { name = $0 } /^test result:/ && !/ 0 passed; 0 failed;/ { print name; print }' \
    "$reports/rust" "$reports/rust-cluster" "$reports/rust-faults"
grep -E '^(# |ℹ )(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ' "$reports/node"
sed -n '/= SUMMARY =/,$p' "$reports/schemathesis"

step "all passed in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
