# syntax=docker/dockerfile:1.20
# The image of one pod. docker build --build-arg COMMIT="$(git rev-parse --short=12 HEAD)" --tag chatify .
ARG RUST=1.95

FROM rust:${RUST}-bookworm AS build
# OpenSSL for `kafka-tls`; the final image has the same release of it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libssl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src

# Dependencies are fetched in a layer of their own, which stays as long as the manifests do. Cargo wants to see a target in each.
COPY --parents .cargo Cargo.toml Cargo.lock crates/*/Cargo.toml tests/Cargo.toml ./
RUN for member in crates/* tests; do mkdir -p "$member/src" && touch "$member/src/lib.rs" "$member/src/main.rs"; done \
    && cargo fetch --locked \
    && rm -r crates tests

COPY . .
# The binary says which commit it is made from; the repository itself is not in the build.
ARG COMMIT=""
RUN --mount=type=cache,target=/src/target,sharing=locked \
    CHATIFY_COMMIT="$COMMIT" cargo build --release --locked --offline --package chatify-host --bin chatify --features kafka-tls \
    && install -D --mode=755 target/release/chatify /image/usr/local/bin/chatify \
    && install -D --mode=644 --target-directory=/image/usr/share/doc/chatify LICENSE-APACHE LICENSE-MIT \
    && install -d --mode=700 --owner=65532 --group=65532 /image/data

# No shell and no package manager; glibc, libgcc, OpenSSL and the authorities' certificates. The user is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG COMMIT=""
LABEL org.opencontainers.image.title="chatify" \
      org.opencontainers.image.description="A chat backend: one binary on a laptop, a fleet of identical pods in the cluster" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /image/ /
# Nothing is written outside /data, so that the root may be read-only. Only the profile `embedded` keeps something there.
ENV CHATIFY__SERVER__DATA_DIR=/data \
    CHATIFY__SERVER__LISTEN=0.0.0.0:8080
VOLUME ["/data"]
EXPOSE 8080
USER 65532:65532
# Ends within the drain window, four times its grace, and ten seconds: 60 s by default. Give the container as long before it is killed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["/usr/local/bin/chatify", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/chatify"]
CMD ["serve"]
