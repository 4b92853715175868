#!/bin/bash
# The contract of the public postgres:18 image: POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD (each also as _FILE),
# POSTGRES_INITDB_ARGS, PGDATA, /docker-entrypoint-initdb.d; arguments that begin with - go to the server.
set -euo pipefail
case "${1:-postgres}" in -*) set -- postgres "$@" ;; esac
[ "${1:-postgres}" = postgres ] || exec "$@"

from_file() { # NAME: take the value from the file that NAME_FILE names
  local file=$1_FILE
  [ -z "${!file:-}" ] || export "$1=$(< "${!file}")"
  unset "$file"
}
from_file POSTGRES_USER
from_file POSTGRES_DB
from_file POSTGRES_PASSWORD
export POSTGRES_USER=${POSTGRES_USER:-postgres}
export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}

run_sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password -U "$POSTGRES_USER" "$@"; }

# initdb looks up the name of its user. As in the public image, nss_wrapper answers for a user without a passwd entry.
name_the_user() {
  local wrapper
  ! getent passwd "$(id -u)" > /dev/null || return 0
  for wrapper in {/usr,}/lib{/*,}/libnss_wrapper.so; do
    [ -s "$wrapper" ] || continue
    NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp) LD_PRELOAD=$wrapper
    printf 'postgres:x:%s:%s:PostgreSQL:%s:/bin/false\n' "$(id -u)" "$(id -g)" "$PGDATA" > "$NSS_WRAPPER_PASSWD"
    printf 'postgres:x:%s:\n' "$(id -g)" > "$NSS_WRAPPER_GROUP"
    export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD
    break
  done
}

first_start() {
  local file
  [ -n "${POSTGRES_PASSWORD:-}" ] || { echo "POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE is needed" >&2; exit 1; }
  name_the_user
  # POSTGRES_INITDB_ARGS is a list of words
  # shellcheck disable=SC2086
  initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-local=trust \
    --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
  unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
  [ "$POSTGRES_DB" = postgres ] || run_sql -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) echo "running $file"; if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) echo "running $file"; run_sql -d "$POSTGRES_DB" -f "$file" ;;
    esac
  done
  pg_ctl -D "$PGDATA" -w -m fast stop
}

mkdir -p "$PGDATA"
chmod 700 "$PGDATA" # at each start: kubelet's fsGroup adds group rights to a volume that is mounted again, and the server refuses them
[ -s "$PGDATA/PG_VERSION" ] || first_start
exec "$@"
