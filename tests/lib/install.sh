#!/usr/bin/env bash
# Installs from Debian what the black-box suites need, and nothing that is there already.
#
# No service is started: the package scripts are told so by a policy-rc.d of ours for the time of
# the installation, and Postfix is given no configuration of its own ("No configuration").
# Prints what it installed; ends non-zero when something is missing and cannot be installed. The mail clients are another matter:
# install_clients.sh.
set -euo pipefail

# command:package
wanted=(
  postfix:postfix
  /usr/sbin/smtp-source:postfix
  /usr/sbin/smtp-sink:postfix
  swaks:swaks
  /usr/sbin/dovecot:dovecot-core
  /usr/lib/dovecot/lmtp:dovecot-lmtpd
  /usr/lib/dovecot/imap:dovecot-imapd
  /usr/sbin/nsd:nsd
  ldns-signzone:ldnsutils
  strace:strace
  prometheus:prometheus
  promtool:prometheus
  python3:python3
  curl:curl
  mkfs.ext4:e2fsprogs
  fsck.ext4:e2fsprogs
  losetup:mount
  setpriv:util-linux
  ps:procps
)
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
for entry in "${wanted[@]}"; do
  command -v "${entry%%:*}" >/dev/null 2>&1 || missing+=("${entry##*:}")
done
here=$(dirname "${BASH_SOURCE[0]}")
if [ ${#missing[@]} -eq 0 ]; then
  exec "$here/install_clients.sh"
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root=(sudo -n --preserve-env=DEBIAN_FRONTEND)
  else
    echo "install: missing ${missing[*]}; neither root nor sudo, so not installed" >&2
    exit 1
  fi
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "install: missing ${missing[*]}; no apt-get here" >&2
  exit 1
fi

echo "install: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
ours=no
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 0755 "$policy"
  ours=yes
fi
trap '[ "$ours" = no ] || "${as_root[@]}" rm -f "$policy"' EXIT
printf 'postfix postfix/main_mailer_type select No configuration\n' |
  "${as_root[@]}" debconf-set-selections 2>/dev/null || true

log=$(mktemp)
get() {
  "${as_root[@]}" apt-get "$@" </dev/null >>"$log" 2>&1
}
if ! { get install -y --no-install-recommends "${missing[@]}" ||
  { get update && get install -y --no-install-recommends "${missing[@]}"; }; }; then
  tail -40 "$log" >&2
  echo "install: could not install ${missing[*]}" >&2
  exit 1
fi
rm -f "$log"
for entry in "${wanted[@]}"; do
  command -v "${entry%%:*}" >/dev/null 2>&1 || { echo "install: still no ${entry%%:*}" >&2; exit 1; }
done
"$here/install_clients.sh"
