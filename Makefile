# What a developer does with this tree. Every command works on a fresh machine with Rust and build-essential.
.DEFAULT_GOAL := help
.PHONY: help run build test fmt lint bench clean-data

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

run: ## build and start on http://localhost:8080 with data in ./data
	@scripts/run.sh

build: ## the optimised binary, target/release/chatify
	@cargo build --release --locked --package chatify-host --bin chatify

test: ## everything: format, lints, layers, unit, contract, property, end to end
	@scripts/test.sh

fmt: ## format the Rust sources
	@cargo fmt --all

lint: ## the quick part of the tests: format, house rules, clippy
	@cargo fmt --all --check
	@scripts/tidy.sh
	@cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

bench: ## durable sends beside a bare group-commit loop over the same database
	@cargo run --release --locked --package chatify-infrastructure --example group_commit

clean-data: ## forget everything that ./data holds: messages, keys, tokens
	@rm -rf data
