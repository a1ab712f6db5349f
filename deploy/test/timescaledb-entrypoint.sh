#!/bin/sh
# What the image's own entrypoint does with POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD, as far as we use it.
set -eu
if [ "$(id -u)" = 0 ]; then
  install --directory --owner postgres --group postgres --mode 0700 "$PGDATA" /var/run/postgresql
  exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  password_file=$(mktemp)
  printf '%s' "${POSTGRES_PASSWORD:?}" > "$password_file"
  initdb --username "${POSTGRES_USER:?}" --pwfile "$password_file" --auth-host scram-sha-256 --auth-local trust \
    --encoding UTF8 --locale C.UTF-8 >/dev/null
  rm "$password_file"
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  # No listener but the Unix socket until the database is there.
  pg_ctl start --wait --silent --log "$PGDATA/first-start.log" --options "-c listen_addresses=''"
  createdb --username "$POSTGRES_USER" "${POSTGRES_DB:?}"
  pg_ctl stop --wait --silent --mode fast
fi
exec "$@"
