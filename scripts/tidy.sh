#!/usr/bin/env bash
# House rules that no compiler holds. usage: tidy.sh [ROOT]; before it judges the tree it shows that it can fail.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

MAX_LINES=500

# Every text file of the project, without what tools produce.
files() {
    find . \( -path ./target -o -path ./fuzz/target -o -path ./.git -o -path ./data -o -name node_modules -o -name .venv \) -prune -o \
        -type f \( "$@" \) -print | sort
}

# Lines of a Rust file before its `#[cfg(test)] mod`, which comes last.
code_lines() {
    awk '/^#\[cfg\(test\)\]/ { held = NR; next } held && /^mod / { print held - 1; found = 1; exit } { held = 0 }
         END { if (!found) print NR }' "$1"
}

rust_files() {
    local file lines first
    files -name '*.rs' | while read -r file; do
        case $file in
        */tests/* | */benches/* | */tests.rs | */contract/*) ;;
        *)
            lines=$(code_lines "$file")
            [ "$lines" -le "$MAX_LINES" ] || echo "$file: $lines lines without tests, $MAX_LINES is the limit: split it"
            ;;
        esac
        first=$(awk 'NF && !/^#!\[/ { print; exit }' "$file")
        case $first in
        '//!'*) ;;
        *) echo "$file: must begin with //! and say what the module is for" ;;
        esac
    done
}

# usage: forbid EXTENDED_REGEX SENTENCE FILE...
forbid() {
    local regex=$1 sentence=$2
    shift 2
    [ $# -eq 0 ] || grep -nEH -- "$regex" "$@" | sed "s|\$|    <- $sentence|" || true
}

words() {
    local rust=() text=() suites=() locks=()
    mapfile -t rust < <(files -name '*.rs')
    mapfile -t text < <(files -name '*.rs' -o -name '*.md' -o -name '*.toml' -o -name '*.sh' -o -name '*.js' -o -name '*.mjs' \
        -o -name '*.html' -o -name '*.css' -o -name '*.sql' -o -name '*.yml' -o -name Makefile -o -name package.json \
        -o -name package-lock.json -o -name .npmrc | grep -v '^./scripts/tidy.sh$')
    mapfile -t suites < <(files -name '*.test.js' -o -name '*.test.mjs')
    mapfile -t locks < <(files -name package-lock.json)
    forbid '#\[ignore|#\[should_panic' 'every test runs, and asserts what it expects' "${rust[@]}"
    forbid '```(rust,)?(ignore|no_run)' 'every example runs; use ```text for what is none' "${rust[@]}"
    forbid 'error = .*as &dyn std::error::Error' 'error = chain(...): JSON lines lose the causes of a field that is an error' "${rust[@]}"
    forbid '\b(todo|unimplemented)!\(' 'no stubs' "${rust[@]}"
    forbid '#!?\[allow\(' 'use #[expect(..., reason = "...")]' "${rust[@]}"
    forbid '\b(TODO|FIXME|XXX|HACK)\b' 'finish it or open an issue' "${text[@]}"
    forbid '(^|[^A-Za-z0-9_.-])/(work|root|home/[a-z]+)/' 'a path of one machine' "${text[@]}"
    forbid '\.(skip|only|todo)\(' 'every test runs' "${suites[@]}"
    forbid '"resolved":' 'keep registries out of the lock file: omit-lockfile-registry-resolved' "${locks[@]}"
    forbid '[[:space:]]+$' 'trailing white space' "${text[@]}"
}

# The application names no technology, not even in a comment: what it says must hold for every adapter.
layers_in_words() {
    local application=()
    mapfile -t application < <(files -path './crates/application/*.rs' -o -path './crates/domain/*.rs')
    forbid '[Kk]afka|[Ss]cylla|[Rr]edis|SQLite|sqlite|[Ss]ignalR|axum|WebSocket' 'the inner crates name no technology' \
        "${application[@]}"
}

# Links between the project's own pages must lead somewhere.
links() {
    local page target
    files -name '*.md' | while read -r page; do
        grep -oE '\]\([^)# ]+' "$page" | cut -c3- | grep -v '://' | while read -r target; do
            [ -e "$(dirname "$page")/$target" ] || echo "$page: the link to $target leads nowhere"
        done
    done || true
}

scripts() {
    local script
    files -name '*.sh' -o -path './.ci/run' | while read -r script; do
        bash -n "$script" || echo "$script: syntax error"
        case $script in
        */lib.sh) ;;
        *) grep -q '^set -euo pipefail$' "$script" || echo "$script: must say set -euo pipefail" ;;
        esac
    done
}

findings() {
    cd "$1"
    rust_files
    words
    layers_in_words
    links
    scripts
}

# A check that cannot fail proves nothing: a tree with one of each fault must give one finding for each.
self_check() {
    local tree seen expected
    tree=$(mktemp -d)
    mkdir -p "$tree/crates/application/src" "$tree/tests/js"
    printf 'fn a() {}\n' >"$tree/nodoc.rs"
    { echo '//! Long.'; seq -f '// line %g' "$MAX_LINES"; printf '#[cfg(test)]\nmod tests {}\n'; } >"$tree/long.rs"
    { echo '//! Not long.'; seq -f '// line %g' $((MAX_LINES - 1)); printf '#[cfg(test)]\nmod tests {}\n'; } >"$tree/fits.rs"
    printf '//! Words.\n#[ignore]\nfn a() { todo!() }\n#[allow(x)]\n// TODO\n// /work/x\n/// ```ignore\n' >"$tree/words.rs"
    printf '//! Speaks of SQLite.\n' >"$tree/crates/application/src/lib.rs"
    printf 'test.skip()\n' >"$tree/tests/js/a.test.js"
    printf '{ "resolved": "x" }\n' >"$tree/tests/js/package-lock.json"
    printf '[a](missing.md) \n' >"$tree/page.md"
    printf 'if\n' >"$tree/broken.sh"
    seen=$(findings "$tree" 2>/dev/null | wc -l)
    expected=15
    rm -rf "$tree"
    [ "$seen" -eq "$expected" ] || fail "self-check: $seen of $expected planted faults were found"
}

self_check
found=$(findings "${1:-$ROOT}")
if [ -n "$found" ]; then
    printf '%s\n' "$found"
    fail "house rules: $(printf '%s\n' "$found" | wc -l) finding(s) above"
fi
echo "house rules: nothing found"
