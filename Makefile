# What a developer does with this tree. Every command works on a fresh machine with Rust and build-essential.
.DEFAULT_GOAL := help
.PHONY: help run cluster build test test-cluster faults seeded-bugs fmt lint bench clean-data services-start services-stop services-status services-reset services-test

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'

run: ## build and start on http://localhost:8080 with data in ./data
	@scripts/run.sh

cluster: ## Kafka, Cassandra, Redis and three pods on http://localhost:8081 to 8083, until Ctrl-C
	@scripts/cluster.sh

build: ## the optimised binary, target/release/chatify
	@cargo build --release --locked --package chatify-host --bin chatify

test: ## everything: format, lints, layers, unit, contract, property, end to end
	@scripts/test.sh

faults: ## 200 faults, one after the other, under load: about an hour; the table goes to target/reports/faults.md
	@cargo build --workspace --features chatify-host/kafka-tls,chatify-application/contract-tests --locked --bins
	@CYCLES=$${CYCLES:-200} cargo test --workspace --features chatify-host/kafka-tls,chatify-application/contract-tests --locked --test cluster whatever -- --nocapture

test-cluster: ## the end-to-end suites of make test, Rust and JavaScript, against three pods (services must run: make services-start)
	@cargo build --workspace --features chatify-host/kafka-tls,chatify-application/contract-tests --locked --bins
	@CHATIFY_TEST_PROFILE=cluster cargo test --workspace --features chatify-host/kafka-tls,chatify-application/contract-tests --locked --test it
	@CHATIFY_BIN=$(CURDIR)/target/debug/chatify-test-cluster scripts/node.sh

seeded-bugs: ## does the fault suite find the bugs that are put in on purpose? about eight minutes
	@scripts/seeded-bugs.sh
	@cargo test --workspace --features chatify-host/kafka-tls,chatify-application/contract-tests --locked --test cluster every_seeded -- --nocapture

fmt: ## format the Rust sources
	@cargo fmt --all

lint: ## the quick part of the tests: format, house rules, clippy
	@cargo fmt --all --check
	@scripts/tidy.sh
	@cargo clippy --workspace --all-targets --features chatify-host/kafka-tls,chatify-application/contract-tests --locked -- -D warnings

bench: ## durable sends beside a bare group-commit loop over the same database
	@cargo run --release --locked --package chatify-infrastructure --example group_commit

clean-data: ## forget everything that ./data holds: messages, keys, tokens
	@rm -rf data

services-start: ## start Kafka, Cassandra and Redis for tests, and leave them running
	@scripts/services.sh start kafka kafka-secure cassandra cassandra-secure redis redis-cluster

services-stop: ## stop them
	@scripts/services.sh stop kafka kafka3 kafka-secure cassandra cassandra-secure redis redis-secure redis-cluster

services-status: ## which of them run
	@scripts/services.sh status

services-reset: ## stop them and forget their data
	@scripts/services.sh reset kafka kafka3 kafka-secure cassandra cassandra-secure redis redis-secure redis-cluster

services-test: ## what scripts/services.sh promises
	@scripts/services-test.sh
