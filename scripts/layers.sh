#!/usr/bin/env bash
# Who may use what: bans, wrappers, licences and sources (deny.toml), and what the inner crates may depend on at all.
# Before it judges the tree it shows that it can fail.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

DENY=target/tools/bin/cargo-deny
[ -x "$DENY" ] || fail "cargo-deny is missing: run scripts/tools.sh"

# Everything a crate may name in its [dependencies]. The domain knows no runtime, no serialisation and no I/O; the application
# knows no technology.
BUILDING_BLOCKS="rand thiserror tokio tokio-util tracing uuid"
DOMAIN="chatify-building-blocks percent-encoding thiserror uuid"
APPLICATION="async-trait chatify-building-blocks chatify-domain futures-util siphasher thiserror tokio tokio-util tracing"

# Prints the direct dependencies of crate $1 that are not in the list $2; fails when there are any.
only() {
    local crate=$1 allowed=" $2 " tree name bad=0
    tree=$(cargo tree --locked --package "$crate" --all-features --edges normal,build --depth 1 --prefix none) ||
        fail "cargo tree cannot read the workspace"
    while read -r name; do
        case $allowed in
        *" $name "*) ;;
        *)
            echo "$crate must not depend on $name"
            bad=1
            ;;
        esac
    done < <(sed -n 's/^\([A-Za-z0-9_-]*\) v.*/\1/p' <<<"$tree" | grep -v "^$crate\$" | sort -u)
    return $bad
}

# A check that cannot fail proves nothing: each is given a rule that the tree breaks.
self_check() {
    local rules=target/layers-self-check.toml seen
    seen=$(only chatify-domain "chatify-building-blocks percent-encoding uuid" || true)
    [ "$seen" = "chatify-domain must not depend on thiserror" ] || fail "self-check: a forbidden dependency was not seen: $seen"
    sed 's/{ crate = "rusqlite", wrappers = \[[^]]*\] }/{ crate = "rusqlite", wrappers = ["chatify-domain"] }/' deny.toml >"$rules"
    cmp -s deny.toml "$rules" && fail "self-check: deny.toml has no rule for rusqlite"
    seen=$("$DENY" --log-level error --config "$rules" check bans 2>&1 || true)
    [[ $seen == *"'rusqlite"* ]] || fail "self-check: a banned store was not seen: $seen"
    rm -f "$rules"
}

self_check
only chatify-building-blocks "$BUILDING_BLOCKS" || fail "a layer is broken"
only chatify-domain "$DOMAIN" || fail "a layer is broken"
only chatify-application "$APPLICATION" || fail "a layer is broken"
"$DENY" --log-level error check bans licenses sources || fail "deny.toml is broken"

# The advisory database lives on a forge; without a way there the rest still counts.
if timeout 120 "$DENY" --log-level error fetch db >/dev/null 2>&1; then
    "$DENY" --log-level error check --disable-fetch advisories || fail "a dependency has an advisory"
else
    echo "advisories: not checked, their database cannot be reached from here"
fi
