#!/usr/bin/env bash
# Brings what judges the OpenAPI document, and nothing that is there already.
#
# From PyPI what tests/contract/requirements.txt names (openapi-spec-validator, check-jsonschema, openapi-python-client, schemathesis), from
# npm Spectral. They go to BRIDGEHEAD_TEST_CACHE (see install_clients.sh): contract/python, contract/node. What is missing and cannot be had
# is named, and the exit status is 1.
set -euo pipefail
umask 022
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

caches=/var/cache
[ "$(id -u)" -eq 0 ] || caches=$HOME/.cache
dir=${BRIDGEHEAD_TEST_CACHE:-$caches/bridgehead-tests}/contract
wanted=$(dirname "${BASH_SOURCE[0]}")/../contract/requirements.txt
spectral=6.16.3
mkdir -p "$dir"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n --preserve-env=DEBIAN_FRONTEND)
missing() {
  tail -20 "$log" >&2
  echo "install: no $1" >&2
  exit 1
}
packages() {
  echo "install: $*"
  { "${as_root[@]}" apt-get install -y --no-install-recommends "$@" ||
    { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends "$@"; }; } \
    </dev/null >"$log" 2>&1 || missing "$*"
}

# the network that the fuzzing has for itself
command -v ip >/dev/null || packages iproute2
command -v unshare >/dev/null || packages util-linux

# all of these versions, for this Python, or anew
mark="$(python3 --version) $(sha256sum <"$wanted")"
if [ "$(cat "$dir/python/.mark" 2>/dev/null)" != "$mark" ]; then
  python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
  echo "install: $(grep -c == "$wanted") Python packages, into $dir/python"
  rm -rf "$dir/python"
  python3 -m pip install --quiet --no-deps --target "$dir/python" -r "$wanted" </dev/null >"$log" 2>&1 ||
    missing "Python packages of tests/contract/requirements.txt"
  echo "$mark" >"$dir/python/.mark"
fi

if ! grep -qs "\"version\": \"$spectral\"" "$dir/node/node_modules/@stoplight/spectral-cli/package.json"; then
  command -v node >/dev/null || packages nodejs
  command -v npm >/dev/null || packages npm
  echo "install: Spectral $spectral, into $dir/node"
  rm -rf "$dir/node"
  mkdir -p "$dir/node"
  npm install --no-audit --no-fund --ignore-scripts --no-save --prefix "$dir/node" "@stoplight/spectral-cli@$spectral" \
    </dev/null >"$log" 2>&1 || missing Spectral
fi
