# BUILD=release builds with optimisations (minutes instead of seconds). ARGS goes to the demo.
BUILD ?= dev
PROFILE := $(if $(filter release,$(BUILD)),--release)
# where rustup puts cargo, in shells that do not know it yet
export PATH := $(PATH):$(HOME)/.cargo/bin

# the tests wait for servers most of the time
export RUST_TEST_THREADS ?= 4

.PHONY: setup build test test-matrix demo check pictures bench bench-copy

# what building, tests and demo need on this machine; does nothing when all is there
setup:
	@assets/setup.sh

build: setup
	cargo build $(PROFILE)

test: setup
	cargo test $(PROFILE)

# whole migrations between PostgreSQL 13 to 18, two servers at a time; fetches them first (350 MB in target/matrix)
export HYPERLIFT_MATRIX ?= $(CURDIR)/target/matrix
test-matrix: setup
	assets/matrix.sh
	PATH="$(HYPERLIFT_MATRIX)/18/bin:$$PATH" cargo test $(PROFILE) --test it -- --ignored --test-threads 1 matrix::

# a source, a target, data and an application that writes, with the dashboard open on them
demo: setup
	cargo run $(PROFILE) -- demo $(ARGS)

check:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# the pictures of the screens in assets/pictures, drawn by the program itself
pictures: setup
	HYPERLIFT_WRITE_PICTURES=1 cargo test --lib pictures_are_up_to_date

# catch-up beside pg_recvlogical and a native subscription, memory, lag, kills: half an hour on a quiet machine. For a look:
# make bench ARGS="--scale 0.02 --rounds 1"
bench: setup
	cargo bench --bench catchup -- $(ARGS)

# the copy beside pgcopydb (apt-get install pgcopydb), pg_dump with pg_restore, and psql: needs 6 GB of disk. For a look:
# make bench-copy ARGS="--scale 0.05 --rounds 1"
bench-copy: setup
	cargo bench --bench copy -- $(ARGS)
