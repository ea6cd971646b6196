#!/usr/bin/env bash
# Installs what building, tests and demo need and this machine lacks: a PostgreSQL server (no cluster is made or started), Node with npm
# for the throw-away TimescaleDB, tmux, libclang and a C compiler. Debian and Ubuntu; as root, or with sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

has() { command -v "$1" >/dev/null 2>&1; }
any() { compgen -G "$1" >/dev/null; }

has_postgres() {
    [ -n "${HYPERLIFT_PG_BIN:-}" ] || any '/usr/lib/postgresql/*/bin/initdb' || { has pg_config && [ -x "$(pg_config --bindir)/initdb" ]; }
}
# the library, and the headers that belong to it
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || { any '/usr/lib/llvm-*/lib/libclang*.so*' && any '/usr/lib/llvm-*/lib/clang/*/include/stddef.h'; } ||
        any '/usr/lib64/libclang.so*'
}

packages=()
has_postgres || packages+=(postgresql)
has psql && has pg_dump || packages+=(postgresql-client)
has node || packages+=(nodejs)
has npm || packages+=(npm)
has tmux || packages+=(tmux)
has_libclang || packages+=(libclang-dev)
has cc && has make || packages+=(build-essential)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# A package postgresql-NN makes and starts a cluster when it is installed, unless this file says no. It is put back as it was.
conf=/etc/postgresql-common/createcluster.conf
install_postgres() {
    install postgresql-common
    as_root cp -p "$conf" "$conf.before-setup"
    trap 'as_root mv "$conf.before-setup" "$conf"' EXIT
    printf '\ncreate_main_cluster = false\n' | as_root tee -a "$conf" >/dev/null
    install postgresql
}

if [ ${#packages[@]} -gt 0 ]; then
    echo "setup: missing here: ${packages[*]}"
    if ! has apt-get; then
        echo "setup: there is no apt-get: install the same programs with the package manager of this system" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! has sudo; then
        echo "setup: run as root: apt-get install ${packages[*]}" >&2
        exit 1
    fi
    as_root apt-get update -q
    has_postgres || install_postgres
    install "${packages[@]}"
fi

# npm writes this file when it has finished
if [ -e assets/pglite/package-lock.json ] && ! [ assets/pglite/node_modules/.package-lock.json -nt assets/pglite/package-lock.json ]; then
    (cd assets/pglite && npm ci --no-audit --no-fund)
fi

if ! has cargo && ! [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    echo "setup: cargo is missing: install Rust 1.89 or later, for instance with 'apt-get install rustup && rustup default stable'" >&2
    exit 1
fi
