#!/usr/bin/env bash
# Builds and runs the project's Dockerfile, unchanged, also where there is no container engine and no registry of images.
#
#   tests/lib/containers.sh setup              installs what is missing; says which way it goes
#   tests/lib/containers.sh setup compile      also what compiling in the image needs (a large stand-in)
#   tests/lib/containers.sh build ARGS… DIR    builds DIR/Dockerfile
#   tests/lib/containers.sh engine ARGS…       run, exec, stop, rm, image, logs … of the engine
#   tests/lib/containers.sh tidy               removes what building has left; where it is Podman
#
# Where Docker runs, it is Docker. Elsewhere (Debian, root) it is Podman, installed for this, with stand-ins for the base images
# made of Debian's packages under the names of the real ones, all in a storage of its own. CONTAINERS=docker or CONTAINERS=podman
# decides instead.
#
# What the stand-ins are not: the stand-in of Rust is a shell, awk and the Rust of this machine (a compiler for C only after
# `setup compile`); of distroless it has the C library, certificates and time zones of the same Debian. Limits there: no
# cgroup limits, no rlimits, network host or none.
set -euo pipefail
work=${CONTAINERS_WORK:-/var/tmp/bridgehead-containers}
ca=/etc/ssl/certs/ca-certificates.crt
rust_image=docker.io/library/rust:1.95-bookworm
runtime_image=gcr.io/distroless/cc-debian12:nonroot
export PATH="$PATH:/usr/sbin:/sbin"

pod() { podman --root "$work/storage" --runroot "$work/run" "$@"; }

which_engine() {
  case "${CONTAINERS:-}" in docker | podman) echo "$CONTAINERS"; return ;; esac
  if command -v docker >/dev/null && docker info >/dev/null 2>&1; then echo docker; else echo podman; fi
}
kind=$(which_engine)

setup() {
  echo "containers: $kind"
  [ "$kind" = docker ] && return
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "containers: no running Docker, and stand-ins need root and Debian" >&2
    return 1
  fi
  mkdir -p "$work"
  exec 9>"$work/lock"
  flock 9
  log=$work/setup.log
  export DEBIAN_FRONTEND=noninteractive
  local wanted=(podman crun)
  [ "${1:-}" = compile ] && wanted+=(debootstrap)
  local tool missing=()
  for tool in "${wanted[@]}"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "containers: installing ${missing[*]}"
    { apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}" ca-certificates; } </dev/null >"$log" 2>&1 ||
      { tail -40 "$log" >&2; return 1; }
  fi
  runtime >"$work/crun"
  chmod 0755 "$work/crun"
  pod image exists "$runtime_image" || stand_in_runtime
  if [ "${1:-}" = compile ]; then
    pod image exists "$rust_image-compile" || stand_in_compiler
    pod tag "$rust_image-compile" "$rust_image"
  elif ! pod image exists "$rust_image"; then
    stand_in_rust
  fi
}

# Unpacks Debian packages into a directory.
unpack() { # directory, package …
  local into=$1 debs=$work/debs
  shift
  rm -rf "$into" "$debs"
  mkdir -p "$into" "$debs"
  chmod 0777 "$debs"
  (cd "$debs" && { apt-get download -q "$@" || { apt-get update -q && apt-get download -q "$@"; }; }) >"$log" 2>&1 ||
    { tail -20 "$log" >&2; return 1; }
  local deb
  for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$into"; done
  rm -rf "$into"/usr/share/{doc,man,locale,lintian,info} "$debs"
  mkdir -p "$into/tmp"
  chmod 1777 "$into/tmp"
}

image_of() { # directory, name, changes …
  local from=$1 name=$2 change=()
  shift 2
  while [ $# -gt 0 ]; do change+=(-c "$1"); shift; done
  tar -C "$from" -c . | pod import -q "${change[@]}" - "$name" >/dev/null
  rm -rf "$from"
}

stand_in_runtime() {
  local d=$work/runtime
  unpack "$d" base-files ca-certificates libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 netbase tzdata
  mkdir -p "$d/etc/ssl/certs" "$d/home/nonroot"
  find "$d/usr/share/ca-certificates" -name '*.crt' -exec cat {} + >"$d/etc/ssl/certs/ca-certificates.crt"
  printf 'root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n' >"$d/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$d/etc/group"
  image_of "$d" "$runtime_image" 'USER 65532:65532' 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

rust_environment=('ENV CARGO_HOME=/cargo' 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')

stand_in_rust() {
  local d=$work/rust
  unpack "$d" base-files coreutils dash findutils libacl1 libattr1 libc6 libgcc-s1 libgmp10 libpcre2-8-0 libselinux1 mawk zlib1g
  ln -sf mawk "$d/usr/bin/awk"
  image_of "$d" "$rust_image" "${rust_environment[@]}"
}

stand_in_compiler() {
  local d=$work/compiler
  rm -rf "$d"
  debootstrap --variant=minbase --include=gcc,g++,make,cmake,pkg-config,libc6-dev,ca-certificates bookworm "$d" >"$log" 2>&1 ||
    { tail -20 "$log" >&2; return 1; }
  image_of "$d" "$rust_image-compile" "${rust_environment[@]}"
}

# crun, told of no rlimits and no score for the killer of processes: neither can be set in every sandbox.
runtime() {
  cat <<'CRUN'
#!/usr/bin/env bash
files=()
for ((i = 1; i <= $#; i++)); do
  next=$((i + 1))
  case "${!i}" in
    --bundle | -b) files+=("${!next}/config.json") ;;
    --bundle=*) files+=("${!i#*=}/config.json") ;;
    --process | -p) files+=("${!next}") ;;
    --process=*) files+=("${!i#*=}") ;;
  esac
done
for file in "${files[@]}"; do
  [ -f "$file" ] && python3 -c '
import json, sys
path = sys.argv[1]
whole = json.load(open(path))
process = whole.get("process", whole)
process.pop("rlimits", None)
process.pop("oomScoreAdj", None)
json.dump(whole, open(path, "w"))' "$file"
done
exec /usr/bin/crun "$@"
CRUN
}

build() {
  if [ "$kind" = docker ]; then
    docker build "$@"
  else
    pod build --isolation chroot --pull=never --format docker --layers \
      -v "$(dirname "$(dirname "$(rustup which rustc)")"):/usr/local/rust:ro" \
      -v "${CARGO_HOME:-$HOME/.cargo}/registry:/cargo/registry" -v "$ca:$ca:ro" "$@"
  fi
}

engine() {
  if [ "$kind" = docker ]; then
    exec docker "$@"
  fi
  case "$1" in
    # crun refuses hybrid cgroups: the unified one is hidden, in a mount namespace of our own
    run | exec | start | restart | stop | kill | rm)
      if [ "$1" = run ]; then set -- run --cgroups=disabled "${@:2}"; fi
      exec unshare -m --propagation private bash -c \
        'umount /sys/fs/cgroup/unified 2>/dev/null; runtime=$1; shift; exec podman --runtime "$runtime" "$@"' _ "$work/crun" \
        --root "$work/storage" --runroot "$work/run" "$@" ;;
    *) pod "$@" ;;
  esac
}

tidy() {
  if [ "$kind" = podman ]; then pod image prune -f >/dev/null; fi
}

case "${1:-}" in
  setup | build | engine | tidy) "$@" ;;
  *) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
