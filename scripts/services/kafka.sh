# Kafka: one broker, three that are controllers too, or one that asks who is there. Sourced by services.sh, never run.
# shellcheck shell=bash
set -euo pipefail

# 16 bytes in URL-safe base64: "services-test-01".
KAFKA_CLUSTER_ID=c2VydmljZXMtdGVzdC0wMQ

# usage: kafka_listeners NODE PORT CONTROLLER_PORT. The second listener of a broker is there for tests that cut or slow the way to it: it
# listens twenty above, and tells clients to come by way of the test's own proxy on LINK_PORT (and the ports after it).
kafka_listeners() {
    local listeners=PLAINTEXT://127.0.0.1:$2 advertised=PLAINTEXT://127.0.0.1:$2
    if [ -n "$LINK_PORT" ]; then
        listeners+=,LINK://127.0.0.1:$(($2 + 20))
        advertised+=,LINK://127.0.0.1:$((LINK_PORT + $1 - 1))
    fi
    cat <<END
listeners=$listeners,CONTROLLER://127.0.0.1:$3
advertised.listeners=$advertised
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,LINK:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
END
}

# usage: kafka_configuration NODE VOTERS REPLICAS DIRECTORY
kafka_configuration() {
    local replicas=$3 in_sync=1
    [ "$replicas" -eq 1 ] || in_sync=2
    cat <<END
process.roles=broker,controller
node.id=$1
controller.quorum.voters=$2
log.dirs=$4/data
num.partitions=1
default.replication.factor=$replicas
min.insync.replicas=$in_sync
# A topic that nobody created is a fault that tests must see.
auto.create.topics.enable=false
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.segment.bytes=67108864
# The default of 128 MiB leaves a small heap nothing.
log.cleaner.dedupe.buffer.size=16777216
# A dead peer is noticed within seconds, so that fault tests are quick.
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
replica.lag.time.max.ms=6000
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
END
}

# usage: kafka_secure_configuration DIRECTORY. The broker speaks plainly to itself only, and else through TLS, with SASL, or both.
# OAUTHBEARER takes unsigned tokens, as Kafka does when no keys are configured.
kafka_secure_configuration() {
    local listener port=$KAFKA_SECURE_PORT plain=org.apache.kafka.common.security.plain.PlainLoginModule
    cat <<END
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1)),SSL://127.0.0.1:$((port + 2)),SASL_PLAINTEXT://127.0.0.1:$((port + 3)),SASL_SSL://127.0.0.1:$((port + 4))
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SSL://127.0.0.1:$((port + 2)),SASL_PLAINTEXT://127.0.0.1:$((port + 3)),SASL_SSL://127.0.0.1:$((port + 4))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=$1/server-chain.pem
ssl.truststore.type=PEM
ssl.truststore.location=$1/authority.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
END
    for listener in sasl_plaintext sasl_ssl; do
        cat <<END
listener.name.$listener.plain.sasl.jaas.config=$plain required user_$SECURE_USER="$SECURE_PASSWORD";
listener.name.$listener.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.$listener.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.$listener.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
END
    done
}

# usage: kafka_launch NAME NODE PORT CONTROLLER_PORT VOTERS REPLICAS HEAP
kafka_launch() {
    local name=$1 directory=$STATE/$1 home users=()
    ! running_pid "$name" >/dev/null || return 0
    need_port "$3"
    need_port "$4"
    mkdir -p "$directory"
    home=$(jdk_of kafka)
    kafka_configuration "$2" "$5" "$6" "$directory" >"$directory/server.properties"
    if [ "$name" = kafka-secure ]; then
        certificates "$directory/tls"
        kafka_secure_configuration "$directory/tls" >>"$directory/server.properties"
        users=(--add-scram "SCRAM-SHA-256=[name=$SECURE_USER,password=$SECURE_PASSWORD]"
            --add-scram "SCRAM-SHA-512=[name=$SECURE_USER,password=$SECURE_PASSWORD]")
    else
        kafka_listeners "$2" "$3" "$4" >>"$directory/server.properties"
    fi
    if [ ! -f "$directory/data/meta.properties" ]; then
        quietly java_tool kafka kafka.tools.StorageTool format -t "$KAFKA_CLUSTER_ID" -c "$directory/server.properties" "${users[@]}" ||
            give_up "the data directory of $name cannot be formatted"
    fi
    launch "$name" "$home/bin/java" "-Xms$7" "-Xmx$7" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -Djava.awt.headless=true \
        "-Dlog4j2.configurationFile=$FILES/kafka/log4j2.xml" -cp "$(jars kafka)/lib/*" kafka.Kafka "$directory/server.properties"
}

# usage: kafka3_launch NODE
kafka3_launch() {
    local voters="" node
    for node in 1 2 3; do
        voters+=${voters:+,}$node@127.0.0.1:$((KAFKA3_PORT + 9 + node))
    done
    kafka_launch "kafka3-$1" "$1" $((KAFKA3_PORT + $1 - 1)) $((KAFKA3_PORT + 9 + $1)) "$voters" 3 "$KAFKA3_HEAP"
}

kafka3_bootstrap() {
    echo "127.0.0.1:$KAFKA3_PORT,127.0.0.1:$((KAFKA3_PORT + 1)),127.0.0.1:$((KAFKA3_PORT + 2))"
}

# usage: kafka_await SERVICE BOOTSTRAP BROKERS
kafka_await() {
    await "$1" java_tool kafka KafkaReady "$2" "$3" "$START_TIMEOUT"
}

kafka_start() {
    kafka_launch kafka 1 "$KAFKA_PORT" $((KAFKA_PORT + 1)) "1@127.0.0.1:$((KAFKA_PORT + 1))" 1 "$KAFKA_HEAP"
    kafka_await kafka "127.0.0.1:$KAFKA_PORT" 1
}

kafka3_start() {
    local node
    for node in 1 2 3; do kafka3_launch "$node"; done
    kafka_await kafka3 "$(kafka3_bootstrap)" 3
}

kafka_secure_start() {
    kafka_launch kafka-secure 1 "$KAFKA_SECURE_PORT" $((KAFKA_SECURE_PORT + 1)) "1@127.0.0.1:$((KAFKA_SECURE_PORT + 1))" 1 "$KAFKA_HEAP"
    kafka_await kafka-secure "127.0.0.1:$KAFKA_SECURE_PORT" 1
}
