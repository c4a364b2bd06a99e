# What the services with TLS and passwords have in common. Sourced by services.sh, never run.
# shellcheck shell=bash
set -euo pipefail

# Whom they know. They are on the loopback interface and hold nothing but what tests put there.
# shellcheck disable=SC2034 # the other parts of services.sh use them
readonly SECURE_USER=chatify SECURE_PASSWORD=chatify-password

# usage: certificate NAME SUBJECT SIGNER; makes NAME.pem and NAME.key. SIGNER is NAME itself for an authority.
certificate() {
    local authority=FALSE names=(-addext "subjectAltName=DNS:localhost,IP:127.0.0.1") signer=(-CA "$3.pem" -CAkey "$3.key")
    [ "$3" != "$1" ] || { authority=TRUE names=() signer=(); }
    # Said on purpose: openssl makes everyone an authority unless told otherwise, and strict clients trust no server that is one.
    quietly openssl req -x509 -newkey rsa:2048 -noenc -days 3650 -subj "/CN=$2" \
        -addext "basicConstraints=critical,CA:$authority" "${names[@]}" "${signer[@]}" \
        -keyout "$1.key" -out "$1.pem" || give_up "openssl cannot make a certificate"
}

# usage: certificates DIRECTORY; an authority, the server's certificate and a client's, and the server's files in one, as Java wants it.
certificates() {
    [ ! -f "$1/server-chain.pem" ] || return 0
    mkdir -p "$1"
    (
        cd "$1"
        certificate authority "Chatify test authority" authority
        certificate server localhost authority
        certificate client chatify authority
        cat server.key server.pem authority.pem >server-chain.pem
    )
}
