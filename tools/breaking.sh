#!/usr/bin/env bash
# Holds the contracts against those of main before this change.
#
# On a branch that is where it left origin/main. In a fresh clone of main, as in CI, HEAD is main itself: there it is the
# newest commit made at least BASE_AGE_HOURS before HEAD, that is before the work that HEAD ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BASE_AGE_HOURS=4

base=${HEIMDALL_CONTRACT_BASE:-}
if [ -z "$base" ] && git rev-parse --verify --quiet origin/main >/dev/null; then
  base=$(git merge-base HEAD origin/main)
fi
if [ -z "$base" ] || [ "$(git rev-parse "$base")" = "$(git rev-parse HEAD)" ]; then
  before=$(($(git log -1 --format=%ct HEAD) - BASE_AGE_HOURS * 3600))
  base=$(git rev-list -1 --before="$before" HEAD)
fi
if [ -z "$base" ] || ! git cat-file -e "$base:protos" 2>/dev/null; then
  echo "breaking: skipped, there are no earlier contracts to compare with"
  exit 0
fi

earlier=$(mktemp -d)
trap 'rm -rf "$earlier"' EXIT
git archive "$base" buf.yaml protos | tar -x -C "$earlier"
echo "breaking: comparing with $(git log -1 --format='%h of %cI' "$base")"
"${BUF:-buf}" breaking --against "$earlier"
