# Build the image with `make image` (docker, or buildah where only that is installed), or with `docker build -t hyperlift .`. Then:
#
#   docker run -it -e PGCOPYDB_SOURCE_PGURI=… -e PGCOPYDB_TARGET_PGURI=… -v ~/live-migration:/opt/timescale/ts_cdc hyperlift
#
# The volume keeps the work directory, so that another container continues the migration.

FROM rust:1-trixie AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/hyperlift /usr/local/bin/

FROM debian:trixie-slim
# pg_dump must not be older than the source. Debian has version 17. For a source of PostgreSQL 18:
#   make image IMAGE_FLAGS='--build-arg PG_CLIENTS="17 18"'
# Other versions than Debian's come from the repository of the PostgreSQL project (PGDG).
ARG PG_CLIENTS="17"
RUN set -eu; \
    apt-get update; \
    apt-get install -y --no-install-recommends ca-certificates; \
    for version in $PG_CLIENTS; do \
        if ! apt-cache show "postgresql-client-$version" >/dev/null 2>&1; then \
            apt-get install -y --no-install-recommends postgresql-common; \
            /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y; \
        fi; \
        apt-get install -y --no-install-recommends "postgresql-client-$version"; \
    done; \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/hyperlift /usr/local/bin/
# the dashboard draws with Unicode
ENV LANG=C.UTF-8
# plan, journal and spooled rows: a volume, so that a migration can continue in another container
ENV HYPERLIFT_DIR=/opt/timescale/ts_cdc
VOLUME /opt/timescale/ts_cdc
WORKDIR /opt/timescale/ts_cdc
ENTRYPOINT ["hyperlift"]
