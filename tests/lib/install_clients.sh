#!/usr/bin/env bash
# Installs the mail clients of tests/peers/test_clients.py and the mail servers of test_foreign_hops.py, and nothing that is there
# already.
#
# From Debian what can stand beside Postfix. Exim and OpenSMTPD cannot (Debian has one mail-transport-agent at a time): their packages
# are unpacked into a directory of ours, their libraries are installed, and their users are made as their packages would. aiosmtplib
# (PyPI) and nodemailer (npm) go there too. The directory is BRIDGEHEAD_TEST_CACHE, else bridgehead-tests in /var/cache, or in ~/.cache without root. Exim
# goes on as a user of its own, who must be able to get in.
# A client that cannot be had is named, and no failure here: its test is skipped aloud, and fails in CI.
set -uo pipefail
umask 022
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

caches=/var/cache
[ "$(id -u)" -eq 0 ] || caches=$HOME/.cache
cache=${BRIDGEHEAD_TEST_CACHE:-$caches/bridgehead-tests}
aiosmtplib=5.1.3
nodemailer=6.10.1
mkdir -p "$cache"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo -n --preserve-env=DEBIAN_FRONTEND)
fi

# Runs it quietly; names what it was for when it fails.
try() {
  local what=$1
  shift
  if ! "$@" </dev/null >"$log" 2>&1; then
    tail -10 "$log" >&2
    echo "install: no $what" >&2
    return 1
  fi
}

refreshed=no
refresh() {
  [ "$refreshed" = yes ] || "${as_root[@]}" apt-get update </dev/null >"$log" 2>&1
  refreshed=yes
}
packages() {
  echo "install: $*"
  if "${as_root[@]}" apt-get install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1; then return 0; fi
  refresh
  try "$*" "${as_root[@]}" apt-get install -y --no-install-recommends "$@"
}

# what swaks needs for TLS, and Postfix for a login
perl -MNet::SSLeay -e 1 2>/dev/null || packages libnet-ssleay-perl
compgen -G '/usr/lib/*/sasl2/liblogin.so' >/dev/null || packages libsasl2-modules
command -v msmtp >/dev/null || packages msmtp
command -v openssl >/dev/null || packages openssl

exim=$cache/exim/usr/sbin/exim4
runs() { [ -x "$exim" ] && "$exim" -bV -C /dev/null >/dev/null 2>&1; }

exim() {
  id Debian-exim >/dev/null 2>&1 || try "Exim: its user cannot be made" "${as_root[@]}" useradd --system --no-create-home \
    --home-dir /var/spool/exim4 --shell /usr/sbin/nologin Debian-exim || return
  runs && return
  packages libdb5.3 libgnutls-dane0 libidn12 libidn2-0 libnsl2 libpcre2-8-0 || return
  local from
  from=$(mktemp -d)
  chmod 0755 "$from"
  # as root the download is done by a user of its own, who writes here
  if (cd "$from" && { try "Exim" apt-get download exim4-daemon-light || { [ "$refreshed" = no ] &&
    "${as_root[@]}" apt-get update >"$log" 2>&1 && try "Exim" apt-get download exim4-daemon-light; }; }); then
    echo "install: exim4-daemon-light, unpacked into $cache/exim"
    try "Exim" dpkg-deb -x "$from"/exim4-daemon-light_*.deb "$cache/exim" && try "Exim" runs
  fi
  rm -rf "$from"
}
runs || exim

smtpd=$cache/opensmtpd/usr/sbin/smtpd
knows_users() { id opensmtpd >/dev/null 2>&1 && id opensmtpq >/dev/null 2>&1; }

# TLS of versions before 7 does not work with OpenSSL 3 (OpenSMTPD issue 1171). Debian 12 has a later one among its backports only:
# their list is read into a directory of its own, from where apt has the others.
opensmtpd() {
  local user
  for user in opensmtpd opensmtpq; do
    id "$user" >/dev/null 2>&1 || try "OpenSMTPD: its users cannot be made" "${as_root[@]}" useradd --system --no-create-home \
      --home-dir /var/lib/opensmtpd/empty --shell /usr/sbin/nologin "$user" || return
  done
  [ -x "$smtpd" ] && return
  packages libdb5.3 libevent-2.1-7 libssl3 || return
  # all of these may be there, and yet no list of what there is
  apt-cache show opensmtpd >/dev/null 2>&1 || refresh
  local from from_here=() have keys=/usr/share/keyrings/debian-archive-keyring.gpg
  from=$(mktemp -d)
  chmod 0755 "$from"
  have=$(apt-cache policy opensmtpd 2>/dev/null | sed -nE 's/^ *Candidate: //p')
  if ! dpkg --compare-versions "${have:-0}" ge 7; then
    mkdir -p "$from/lists/partial" "$from/cache/archives/partial"
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(CREATED_BY)' | awk -v keys="$keys" \
      '$3 == "main" && $4 == "Packages" && $2 !~ /-/ { print "deb [signed-by=" keys "] " $1 " " $2 "-backports main"; exit }' \
      >"$from/backports.list"
    from_here=(-o "Dir::Etc::sourcelist=$from/backports.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$from/lists"
      -o "Dir::Cache=$from/cache")
    if ! try "OpenSMTPD: no list of backports" apt-get "${from_here[@]}" update; then rm -rf "$from"; return; fi
  fi
  if (cd "$from" && try "OpenSMTPD" apt-get "${from_here[@]}" download opensmtpd); then
    echo "install: opensmtpd, unpacked into $cache/opensmtpd"
    try "OpenSMTPD" dpkg-deb -x "$from"/opensmtpd_*.deb "$cache/opensmtpd"
  fi
  rm -rf "$from"
}
{ [ -x "$smtpd" ] && knows_users; } || opensmtpd

# of this version, or anew
if [ ! -d "$cache/python/aiosmtplib-$aiosmtplib.dist-info" ]; then
  python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
  echo "install: aiosmtplib $aiosmtplib, into $cache/python"
  rm -rf "$cache/python"
  try aiosmtplib python3 -m pip install --quiet --no-deps --target "$cache/python" "aiosmtplib==$aiosmtplib"
fi

if ! grep -qs "\"version\": \"$nodemailer\"" "$cache/node/node_modules/nodemailer/package.json"; then
  command -v node >/dev/null || packages nodejs
  command -v npm >/dev/null || packages npm
  echo "install: nodemailer $nodemailer, into $cache/node"
  mkdir -p "$cache/node"
  try nodemailer npm install --no-audit --no-fund --ignore-scripts --no-save --prefix "$cache/node" "nodemailer@$nodemailer"
fi
exit 0
