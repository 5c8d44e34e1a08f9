#!/usr/bin/env bash
# Puts the machine's PostgreSQL 15 into a folder of its own, with pgvector built for it from Debian's source package, and
# prints where its programs are. Package registries are those that the machine is set up for.
# Usage: .ci/postgres-15.sh FOLDER
set -euo pipefail
target=$1
installed=/usr/lib/postgresql/15
[ -d $installed/bin ] && [ -f /etc/apt/sources.list.d/debian.sources ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p lists/partial cache/archives/partial
registry=$(awk 'tolower($1) == "uris:" {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
signed=$(awk 'tolower($1) == "signed-by:" {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
echo "deb-src [${signed:+signed-by=$signed}] $registry trixie main" >sources.list
apt="apt-get -q -o Dir::Etc::SourceList=$work/sources.list -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
{
    # shellcheck disable=SC2086 # several words
    $apt update && $apt source --download-only pgvector
    apt-get -q -o APT::Sandbox::User=root update
    apt-get -q -o APT::Sandbox::User=root download postgresql-server-dev-15 libpq-dev
} >&2
for package in ./*.deb; do dpkg-deb -x "$package" headers; done
tar xf pgvector_*.orig.tar.gz
cd pgvector-*/
gcc -O2 -ftree-vectorize -fassociative-math -fno-signed-zeros -fno-trapping-math -fPIC -shared \
    -I../headers/usr/include/postgresql/15/server -I../headers/usr/include/postgresql src/*.c -o vector.so
mkdir -p "$target/lib/postgresql" "$target/share/postgresql"
cp -a $installed "$target/lib/postgresql/"
cp -aL /usr/share/postgresql/15 "$target/share/postgresql/"
cp vector.so "$target/lib/postgresql/15/lib/"
version=$(sed -n "s/^default_version = '\(.*\)'/\1/p" vector.control)
cp vector.control sql/vector--*--*.sql "$target/share/postgresql/15/extension/"
cp sql/vector.sql "$target/share/postgresql/15/extension/vector--$version.sql"
chmod -R a+rX "$target"
echo "$target/lib/postgresql/15/bin"
