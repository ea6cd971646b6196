# BUILD=release builds with optimisations (minutes instead of seconds). ARGS goes to the demo and to the benchmarks.
BUILD ?= dev
PROFILE := $(if $(filter release,$(BUILD)),--release)
# rustup puts cargo there; a shell that was open before does not know it yet
export PATH := $(PATH):$(HOME)/.cargo/bin

# the tests wait for servers most of the time
export RUST_TEST_THREADS ?= 4

# IMAGE_FLAGS goes to the program that builds the image, for instance --pull-never for base images of this machine
IMAGE ?= hyperlift
IMAGE_FLAGS ?=
IMAGE_BUILD := $(if $(shell command -v docker 2>/dev/null),docker build,buildah bud)

.PHONY: help setup build test test-matrix demo check docs pictures image bench bench-copy

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: ## install what building, tests and demo need, where it is missing
	@assets/setup.sh

build: setup ## build the program; BUILD=release with optimisations
	cargo build $(PROFILE)

test: setup ## run the tests on throw-away servers
	cargo test $(PROFILE)

export HYPERLIFT_MATRIX ?= $(CURDIR)/target/matrix
test-matrix: setup ## run whole migrations between PostgreSQL 13 to 18; downloads them first (350 MB in target/matrix)
	assets/matrix.sh
	PATH="$(HYPERLIFT_MATRIX)/18/bin:$$PATH" cargo test $(PROFILE) --test it -- --ignored --test-threads 1 matrix::

demo: setup ## start source, target and an application that writes, and migrate with the dashboard; ARGS="--plain" without it
	cargo run $(PROFILE) -- demo $(ARGS)

check: ## check format and lints
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

docs: ## write the parts of docs/ that are printed from the code
	HYPERLIFT_WRITE_DOCS=1 cargo test --lib docs_

pictures: ## write the pictures of the screens
	HYPERLIFT_WRITE_PICTURES=1 cargo test --lib pictures

image: ## build the container image, with docker or buildah; IMAGE_FLAGS="--pull-never" with base images of this machine
	$(IMAGE_BUILD) $(IMAGE_FLAGS) -t $(IMAGE) .

# half an hour on a quiet machine; for a first impression: make bench ARGS="--scale 0.02 --rounds 1"
bench: setup ## compare catch-up with pg_recvlogical and a native subscription
	cargo bench --bench catchup -- $(ARGS)

# needs 6 GB of disk; for a first impression: make bench-copy ARGS="--scale 0.05 --rounds 1"
bench-copy: setup ## compare the copy with pgcopydb (apt-get install pgcopydb), pg_dump with pg_restore, and psql
	cargo bench --bench copy -- $(ARGS)
