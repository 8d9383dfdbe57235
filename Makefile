# Everything a newcomer needs: `make demo` and `make test` set up what they need themselves, from the package
# registries alone, and are quick the second time.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-faults test-feast check advisories bench bench-feast scenarios freshness plugins
.PHONY: setup-redis setup-h2load setup-wrk setup-nginx setup-python setup-feast

# Python for reading the journal with other people's tools, and for calling the gateway with a client we did not write.
PYTHON_ENV := target/py
# The real Feast, to be compared with: 600 MB, so only `test-feast` and `bench-feast` install it.
FEAST_ENV := target/feast
COMPONENTS := deploy/demo/plugins
EXAMPLES := crosswind delay_risk_v1 delay_risk_v2

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup-python ## Build everything and serve real flights (Ctrl-C ends it)
	cargo build --release --locked -p weir
	WEIR_PACK=target/release/weir plugins/build.sh $(COMPONENTS) $(EXAMPLES)
	target/release/weir demo

test: setup-redis setup-python ## Run every test
	cargo test --locked --workspace --no-run
	WEIR_PACK=target/debug/weir plugins/build.sh $(COMPONENTS) $(EXAMPLES)
	cargo test --locked --workspace
	cargo test --locked --manifest-path plugins/Cargo.toml
# Filling a disk takes a file system of its own, and mounting one takes root.
	if [ "$$(id -u)" = 0 ]; then cargo test --locked --workspace --test crash -- --ignored a_full_disk; fi

test-faults: setup-redis ## Inject every fault twenty times in a row, on a machine with nothing else to do
	gateway/server/tests/faults/rounds.sh

test-feast: setup-redis setup-feast ## Compare with the real Feast: every answer, every write, its clients, its log
	cargo build --locked -p weir
	WEIR=target/debug/weir $(FEAST_ENV)/bin/python loadtest/feast/differential.py --requests 2400
	WEIR=target/debug/weir $(FEAST_ENV)/bin/python loadtest/feast/clients.py
	cargo test --locked -p weir-journal --test feast_log -- --ignored

check: ## What a change must pass: format, lints, docs, licences, tests
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check bans licenses sources
	$(MAKE) test

advisories: ## Look for known vulnerabilities (asks the advisory database on the net)
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check advisories

bench: setup-redis setup-h2load setup-wrk setup-python ## Measure the gateway beside floors and peers (two quiet cores, seven minutes), into loadtest/README.md
# A peer that cannot be installed is missing from the tables, which say so.
	-@$(MAKE) --no-print-directory setup-nginx
	-@$(MAKE) --no-print-directory setup-feast
	cargo build --release --locked -p weir -p weir-loadtest
	-cargo build --release --locked -p weir-loadtest --example cluster_client
	WEIR_PACK=target/release/weir plugins/build.sh $(COMPONENTS) $(EXAMPLES)
	$(PYTHON_ENV)/bin/python loadtest/bench --readme loadtest/README.md

bench-feast: setup-redis setup-wrk setup-feast ## Measure the gateway beside Feast's feature server on one Redis
	cargo build --release --locked -p weir -p weir-loadtest
	WEIR=target/release/weir $(FEAST_ENV)/bin/python loadtest/feast/bench_feast.py

scenarios: setup-redis ## Play scenarios A to G2 and judge them (two quiet cores, seven minutes), into loadtest/README.md
	cargo build --release --locked -p weir -p weir-loadtest
	WEIR_PACK=target/release/weir plugins/build.sh $(COMPONENTS) crosswind
	python3 loadtest/scenarios.py --out target/scenarios --readme loadtest/README.md

freshness: setup-redis setup-python ## Measure hit rate and age by how long rows are believed, into loadtest/README.md
	cargo build --release --locked -p weir -p weir-loadtest
	target/release/weir-loadtest freshness --readme loadtest/README.md --json target/freshness.json

plugins: ## Build the example transforms into the demo
	plugins/build.sh $(COMPONENTS) $(EXAMPLES)

setup-redis:
	@deploy/setup-tool.sh redis-server redis-server

setup-h2load:
	@deploy/setup-tool.sh h2load nghttp2-client

setup-wrk:
	@deploy/setup-tool.sh wrk wrk

setup-nginx:
	@test -e /usr/share/lua/5.1/nginx/redis.lua || deploy/setup-tool.sh nginx-with-lua libnginx-mod-http-lua lua-nginx-redis lua-cjson

setup-python: $(PYTHON_ENV)/.ready

setup-feast: $(FEAST_ENV)/.ready

$(FEAST_ENV)/.ready: loadtest/feast/requirements.txt
	python3 -m venv $(FEAST_ENV)
	$(FEAST_ENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(PYTHON_ENV)/.ready: deploy/python.txt
	python3 -m venv $(PYTHON_ENV)
	$(PYTHON_ENV)/bin/pip install --quiet --disable-pip-version-check -r deploy/python.txt
	touch $@
