# `make demo` shows the broker at work, `make test` proves it; both install and build what they need first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

KEEP ?=
LONG ?=
ONLY ?=
DENY_VERSION := 0.20.2
CACHE := $(or $(CACHE_BROKER_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/cache-broker)
TARGET := $(or $(CARGO_TARGET_DIR),target)
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)

.PHONY: help
help: ## Say what can be made
	@echo 'make TARGET, where TARGET is:'
	sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12
	echo 'KEEP=1 leaves the demo running until Ctrl-C.'

.PHONY: setup
setup: ## Check and install what demo and test need; build the control plane, once
	@scripts/setup

.PHONY: demo
demo: setup ## Order caches, use them and give them back, on a sandbox
	@scripts/step 'the broker and the sandbox' cargo build --release --locked -p cache-broker -p sandbox
	exec $(TARGET)/release/sandbox demo --broker $(TARGET)/release/cache-broker $(if $(filter-out 0 no false,$(KEEP)),--keep)

.PHONY: test
test: setup ## Run every check and every test
	@scripts/test

.PHONY: bench
bench: setup ## Measure it beside the limits of this machine; LONG=1 takes the measures that last
	@scripts/step 'the broker as it is shipped' cargo build --profile dist --locked -p cache-broker
	scripts/step 'the sandbox' cargo build --release --locked -p sandbox
	exec cargo bench --locked -p benches --bench limits -- $(if $(filter-out 0 no false,$(LONG)),--long) $(ONLY)

.PHONY: micro
micro: ## Measure the pure parts by themselves, with criterion
	@exec cargo bench --locked -p benches --bench pure

.PHONY: soak
soak: setup ## Kill processes under load for about eight minutes; SOAK_SEED=N for the same choices
	@scripts/step 'building the tests' cargo test --locked --test e2e --no-run
	cargo test --locked --test e2e -- --ignored --nocapture nothing_is_lost_while_processes_die_for_long

.PHONY: scale
scale: setup ## Show with 500 instances how few calls to AWS they need
	@CONVERGENCE_INSTANCES=500 cargo test --locked --test e2e many_instances -- --nocapture

.PHONY: fuzz
fuzz: setup ## Play random platforms and feed random bytes to the API, FUZZ_SECONDS (300) each
	@export FUZZ_SECONDS="$${FUZZ_SECONDS:-300}"; export CONFORMANCE_SECONDS="$${CONFORMANCE_SECONDS:-$$FUZZ_SECONDS}"
	cargo test --locked -p cache-broker --test osb -- --nocapture --test-threads=1 conformance fuzz

.PHONY: simulate
simulate: ## Simulate the broker under faults: SEEDS=N mixtures (from FIRST on; every TWICE=n-th again, to compare), or one SEED=x; EVERY=n of the faults one by one, of PART=m/n of the operations
	@export SIMULATION_VERBOSE=$(if $(SEED),1) SIMULATION_TRACE=$(if $(SEED),1)
	$(if $(SEED),,unset SIMULATION_VERBOSE SIMULATION_TRACE)
	$(if $(SEED),export SIMULATION_SEED=$(SEED) SIMULATION_TWICE=0)
	$(if $(TWICE),export SIMULATION_TWICE=$(TWICE))
	export SIMULATION_PART=$(PART)
	export SIMULATION_FIRST=$(or $(FIRST),1) SIMULATION_SEEDS=$(or $(SEEDS),200) SIMULATION_EVERY=$(or $(EVERY),1) SIMULATION_SECONDS=$(or $(SECONDS_EACH),86400)
	# Hours of it are worth some minutes of compilation, one seed is not.
	cargo test --locked $(if $(SEED),,--config profile.dev.opt-level=1 --config 'profile.dev.package."*".opt-level=0') --test simulation -- \
	  --nocapture --include-ignored --test-threads=1 $(if $(SEED),mixtures)

.PHONY: traces
traces: ## Build the broker with traces by OTLP, and show that they reach a collector
	@cargo clippy --locked -p cache-broker --features otlp --lib --bins --test traces -- -D warnings
	cargo test --locked -p cache-broker --features otlp --test traces

.PHONY: lint
lint: ## Check format and clippy's opinion
	@cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt --all

.PHONY: crds
crds: ## Generate crds/ from src/api
	@cargo run --locked --quiet -- crds --out crds

.PHONY: docs
docs: ## Generate docs/SETTINGS.md from src/settings
	@cargo run --locked --quiet -- settings-document > docs/SETTINGS.md.new
	mv docs/SETTINGS.md.new docs/SETTINGS.md

.PHONY: deny
deny: $(DENY)/bin/cargo-deny ## Check dependencies: duplicates, licences, sources
	@$(DENY)/bin/cargo-deny --locked check --hide-inclusion-graph bans licenses sources

$(DENY)/bin/cargo-deny:
	@mkdir -p '$(CACHE)'
	scripts/step 'cargo-deny $(DENY_VERSION), once; it takes some minutes' flock '$(DENY).lock' \
	  cargo install --quiet --locked --version $(DENY_VERSION) --root '$(DENY)' cargo-deny

.PHONY: clean
clean: ## Remove what was built here
	@cargo clean
