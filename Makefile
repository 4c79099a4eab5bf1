# Everything from a fresh Debian machine with a Rust toolchain. `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

LOCAL := deploy/local

# More arguments for `dev` and `test`, e.g. `make test ARGS="--test it rig"`.
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing (Debian packages when root, Apache Kafka through Maven)
	@$(LOCAL)/setup

.PHONY: build
build: setup ## build the program: target/debug/bundlehook
	@cargo build

.PHONY: release
release: setup ## build the optimised program: target/release/bundlehook
	@cargo build --release

.PHONY: demo
demo: build ## watch messages become POSTs for about a minute; exits 0 if all expected arrived
	@./tests/demo/run

.PHONY: dev
dev: build ## run the whole product on an embedded broker and a Redis of its own, until Ctrl-C
	@cargo run --quiet -- dev $(ARGS)

.PHONY: test
test: setup ## run every test; the last lines say on which broker, and how many
	@$(LOCAL)/run-tests $(ARGS)

# For `faults`: rows (all unless set), minutes of load a row, a seed (a new one unless set); `FAULTS_ARGS=--help` says more.
FAULTS ?=
MINUTES ?= 1
SEED ?=
FAULTS_ARGS ?=

.PHONY: faults
faults: release ## break the running system in many ways and account for every message; FAULTS=row,row MINUTES=n SEED=n
	@cargo build --features failpoints
	@./tests/faults/run $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED)) --minutes $(MINUTES) $(FAULTS_ARGS)

.PHONY: proof
proof: release ## a million messages with 200 kills and 20 losses of Redis, in ten chunks; SEED=n
	@./tests/faults/run --faults proof --messages 100000 --chunks 10 $(if $(SEED),--seed $(SEED)) $(FAULTS_ARGS)

# The release that `upgrade-test` begins with, a tag or commit. Unless set it is the last tag; while there is none, the commit before
# the schemas of what is stored last changed.
FROM ?=

.PHONY: upgrade-test
upgrade-test: release ## replace another release by this one under load, and back; FROM=ref MINUTES=n SEED=n
	@from=$$(./tests/faults/build-release $(FROM)); \
		./tests/faults/run --from-binary "$$from" $(if $(SEED),--seed $(SEED)) --minutes $(MINUTES) $(FAULTS_ARGS)

# Runs of each target for `fuzz`, and which (all unless set).
RUNS ?= 100000
TARGETS ?=

.PHONY: fuzz
fuzz: setup ## feed strange and damaged input to what reads it; RUNS=n TARGETS="event url"
	@./fuzz/run $(RUNS) $(TARGETS)

.PHONY: lint
lint: setup ## check the format, clippy and the import rule
	@cargo fmt --check
	@cargo clippy --all-targets -- -D warnings
	@cargo test --test layering

.PHONY: check-deploy
check-deploy: setup ## check what is in deploy/: manifests, alerts, dashboard, Dockerfile, compose file
	@deploy/check

# The optimised program without the feature that tests build it with; `cargo bench` puts one that has it in its place.
BENCH_BINARY := target/bench/bundlehook

.PHONY: bench
bench: release ## measure what a message costs, beside the least that it could; ARGS=--help says more
	@install -D target/release/bundlehook $(BENCH_BINARY)
	@BUNDLEHOOK_TEST_BINARY="$$PWD/$(BENCH_BINARY)" cargo bench --bench speed -- $(ARGS)

.PHONY: bench-floors
bench-floors: setup ## hold the floors of `bench` against the tools of Kafka, Redis and wrk
	@$(LOCAL)/setup wrk
	@$(MAKE) bench ARGS="--check-floors $(ARGS)"

.PHONY: bench-smoke
bench-smoke: setup ## see that the measurements work: small, side by side, not optimised, without goals
	@cargo bench --profile test --bench speed -- --smoke

.PHONY: bench-instructions
bench-instructions: setup ## count the instructions of the pure steps by valgrind; ARGS=--save keeps them
	@$(LOCAL)/setup valgrind
	@cargo bench --bench instructions -- $(ARGS)

.PHONY: check-image
check-image: setup ## run the Dockerfile's commands in fresh Debian roots, as root; no Docker needed
	@deploy/docker/build-in-root

.PHONY: bench-isolation
bench-isolation: setup ## measure what bad endpoints cost the other webhooks, in about 8 minutes
	@cargo bench --bench isolation -- $(ARGS)

.PHONY: services
services: setup ## start Apache Kafka and Redis on free ports, and print the lines to export
	@$(LOCAL)/services up

.PHONY: services-down
services-down: ## end what `make services` started, and remove its data
	@$(LOCAL)/services down
