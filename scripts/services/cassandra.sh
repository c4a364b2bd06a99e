# Cassandra: one node that waits for no other. Sourced by services.sh, never run.
# shellcheck shell=bash
set -euo pipefail

# usage: cassandra_launch NAME PORT STORAGE_PORT
cassandra_launch() {
    local name=$1 directory=$STATE/$1 home jars flags
    ! running_pid "$name" >/dev/null || return 0
    need_port "$2"
    need_port "$3"
    mkdir -p "$directory/conf" "$directory/data" "$directory/tmp"
    home=$(jdk_of cassandra)
    jars=$(jars cassandra)
    sed -e "s#@STATE@#$directory#g" -e "s#@CQL_PORT@#$2#" -e "s#@STORAGE_PORT@#$3#" "$FILES/cassandra/cassandra.yaml.in" \
        >"$directory/conf/cassandra.yaml"
    [ "$name" != cassandra-secure ] || cassandra_secure "$directory"
    mapfile -t flags < <(grep '^-' "$FILES/cassandra/jvm17.options")
    launch "$name" "$home/bin/java" "-Xms$CASSANDRA_HEAP" "-Xmx$CASSANDRA_HEAP" -Xss512k \
        -XX:+UseG1GC -XX:MaxGCPauseMillis=100 -XX:MaxDirectMemorySize=256m "${flags[@]}" \
        -javaagent:"$(echo "$jars"/lib/jamm-*.jar)" \
        -Djava.awt.headless=true -Djava.io.tmpdir="$directory/tmp" -Djna.tmpdir="$directory/tmp" \
        -Dlogback.configurationFile="$FILES/cassandra/logback.xml" -Dcassandra.config="file://$directory/conf/cassandra.yaml" \
        -Dcassandra.storagedir="$directory" -Dcassandra-foreground=yes \
        -cp "$jars/lib/*" org.apache.cassandra.service.CassandraDaemon
}

# usage: cassandra_secure DIRECTORY; the same node with passwords and TLS. It begins with Cassandra's own administrator.
cassandra_secure() {
    certificates "$1/tls"
    sed -i -e 's/AllowAllAuthenticator/PasswordAuthenticator/' -e 's/AllowAllAuthorizer/CassandraAuthorizer/' "$1/conf/cassandra.yaml"
    cat >>"$1/conf/cassandra.yaml" <<END

client_encryption_options:
  enabled: true
  optional: false
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: $1/tls/server-chain.pem
END
}

# usage: cql SECONDS STATEMENT...; waits that long for an answer, then runs the statements.
cql() {
    java_tool cassandra Cql 127.0.0.1 "$CASSANDRA_PORT" "$@"
}

# usage: cql_secure SECONDS; the same with the node that asks for a password, and makes the user that tests know.
cql_secure() {
    java_tool cassandra "-Dauthority=$STATE/cassandra-secure/tls/authority.pem" -Duser=cassandra -Dpassword=cassandra \
        Cql 127.0.0.1 "$CASSANDRA_SECURE_PORT" "$1" \
        "CREATE ROLE IF NOT EXISTS $SECURE_USER WITH PASSWORD = '$SECURE_PASSWORD' AND LOGIN = true AND SUPERUSER = true"
}

# usage: cassandra_start NAME
cassandra_start() {
    if [ "$1" = cassandra-secure ]; then
        cassandra_launch "$1" "$CASSANDRA_SECURE_PORT" "$CASSANDRA_SECURE_STORAGE_PORT"
        await "$1" cql_secure "$START_TIMEOUT"
    else
        cassandra_launch "$1" "$CASSANDRA_PORT" "$CASSANDRA_STORAGE_PORT"
        await "$1" cql "$START_TIMEOUT"
    fi
}
