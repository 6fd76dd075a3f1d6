# make demo    builds Millrace, gets Kafka and an S3 server, and shows the job running (ARGS="…" are its flags)
# make test    the checks and all tests, on the same real parts
# make chaos   faults on a real cluster under load, and a check of every acknowledged event (ARGS="…" are its flags)
# make bench   what the processes cost, on a real Kafka and a real S3 server (ARGS="drain …" are its part and flags)
# make screenshots  the pictures of the page's documentation, from a running demo
# make check   the checks alone
# make test-hosts  a cluster on several hosts, which are network namespaces; part of `make test` where the kernel allows them
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: demo test test-hosts chaos bench screenshots page-weights check build-tools

ARGS ?=
GET := deploy/local/parts/get
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Parts that the flags say run already are not got.
KAFKA := $(if $(filter --kafka --kafka=%,$(ARGS)),,kafka)
S3 := $(if $(filter --s3-endpoint --s3-endpoint=% file:% --lake=file:%,$(ARGS)),,s3)

# The parts are got, and Kafka is run once to keep its classes, while cargo builds.
get_parts = { for part in $(1); do $(GET) $$part >/dev/null || exit; done; } & getting=$$!
# The core must stay free of clocks, randomness and IO.
CORE_BANS := tokio|tonic|rdkafka|etcd-client|object_store|rand|chrono|reqwest|axum
DENY_VERSION := 0.20.2
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

demo: build-tools
	@$(call get_parts,$(KAFKA) $(S3)); \
	cargo build --release --locked -p millrace || { kill $$getting 2>/dev/null || true; exit 1; }; \
	wait $$getting; \
	exec $(TARGET)/release/millrace demo $(ARGS)

test: build-tools
	@$(call get_parts,kafka s3 etcd browser clock reader); \
	$(MAKE) --no-print-directory check || { kill $$getting 2>/dev/null || true; exit 1; }; \
	wait $$getting
	cargo build --release --locked -p millrace -p millrace-e2e --bins
	cargo test --release --locked --workspace --doc
	$(TARGET)/release/with-parts cargo test --release --locked --workspace --all-targets
	@if deploy/e2e/can-make-hosts; then $(MAKE) --no-print-directory test-hosts; else \
	    echo "NOT TESTED: a cluster on several hosts; here no network namespaces can be made (reason above)" >&2; fi

# It starts a Kafka and an S3 server on hosts of their own.
test-hosts:
	cargo test --release --locked -p millrace-e2e --test hosts -- --ignored --nocapture

chaos: build-tools
	@$(call get_parts,kafka s3 etcd clock reader); \
	cargo build --release --locked -p millrace -p millrace-chaos --bins || { kill $$getting 2>/dev/null || true; exit 1; }; \
	wait $$getting; \
	exec $(TARGET)/release/millrace-chaos $(ARGS)

bench: build-tools
	@$(call get_parts,kafka s3); \
	cargo build --release --locked -p millrace -p millrace-bench --bins || { kill $$getting 2>/dev/null || true; exit 1; }; \
	wait $$getting; \
	exec $(TARGET)/release/millrace-bench $(if $(strip $(ARGS)),$(ARGS),drain)

screenshots: build-tools
	@$(call get_parts,kafka s3 browser); wait $$getting
	cargo build --release --locked -p millrace -p millrace-e2e --bins
	MILLRACE_SCREENSHOTS=$(CURDIR)/docs/page \
	    cargo test --release --locked -p millrace-e2e --test page -- --test-threads=1

# How soon pages come and what they weigh, of a small cluster and of a large one.
page-weights: build-tools
	@$(call get_parts,kafka s3); wait $$getting
	cargo build --release --locked -p millrace-e2e --bin with-parts
	cargo build --release --locked -p millrace-master --example worker_sessions
	for size in "3 --slots 6" "1000 --slots 6000"; do \
	    $(TARGET)/release/with-parts $(TARGET)/release/examples/worker_sessions \
	        --workers $$size --lost 0 --busy 100 --seconds 130 --pages || exit; \
	done

check: build-tools $(DENY)
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps
	$(DENY) check bans licenses sources
	@if cargo tree --locked -p millrace-master-core -e normal --prefix none | grep -E '^($(CORE_BANS)) v'; then \
	    echo "master/core depends on what stands above; expected plain types only" >&2; exit 1; \
	fi

build-tools:
	@$(GET) build

# Not optimized: it is built faster than the slower checks take.
$(DENY):
	CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 \
	CARGO_TARGET_DIR=$(CACHE)/cargo-deny-build RUSTFLAGS= \
	cargo install --locked --no-default-features --root $(CACHE)/cargo-deny-$(DENY_VERSION) \
	    cargo-deny --version $(DENY_VERSION)
	rm -rf $(CACHE)/cargo-deny-build
