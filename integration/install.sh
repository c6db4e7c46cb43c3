#!/usr/bin/env bash
# Installs what the lab and the benchmarks lack, through apt (Debian, Ubuntu).
#
# Debian's packages of routing daemons start them on the host as they are installed. The host's own routing is none
# of our business: while we install, policy-rc.d forbids it, and the units of packages that we brought are disabled.
# Whatever was there before stays as it was. Run as root; running it again costs nothing.
set -euo pipefail

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

# A program (or file) the lab calls, and the package it comes in.
needed=(
  "/usr/lib/frr/bgpd frr"
  "/usr/bin/vtysh frr"
  "bird bird2"
  "/usr/sbin/bgpctl openbgpd"
  "exabgp exabgp"
  "gobgpd gobgpd"
  "ip iproute2"
  "nft nftables"
  "runc runc"
  "ping iputils-ping"
  "tcpdump tcpdump"
  "sysctl procps"
  "make make"
  "git git"
)

# Packages whose daemons must not run on the host, and their units.
declare -A units=([frr]="frr.service" [bird2]="bird.service bird6.service" [openbgpd]="openbgpd.service bgplgd.service"
  [exabgp]="exabgp.service" [gobgpd]="gobgpd.service")

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

has() {
  case "$1" in
    /*) [[ -x "$1" ]] ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
  esac
}

missing=()
for line in "${needed[@]}"; do
  read -r program package <<<"$line"
  has "$program" && continue
  case " ${missing[*]-} " in *" $package "*) ;; *) missing+=("$package") ;; esac
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

say "the lab lacks: ${missing[*]}"
if ((EUID != 0)); then
  # The tests that need these skip themselves, and say so; in CI nothing may be skipped.
  [[ -z "${CI-}" ]] || die "installing needs root, and CI is set"
  say "*** not root, so nothing is installed: run 'sudo integration/install.sh', or the lab's tests are skipped ***" >&2
  exit 0
fi
command -v apt-get >/dev/null 2>&1 || die "there is no apt-get here: install ${missing[*]} yourself, with their daemons disabled"

policy=/usr/sbin/policy-rc.d
aside=""
placed=""
log=$(mktemp)

# restore puts policy-rc.d back as it was, whatever happened.
restore() {
  local code=$?
  if [[ -n "$placed" ]]; then rm -f "$policy"; fi
  if [[ -n "$aside" ]]; then mv -f "$aside" "$policy"; fi
  rm -f "$log"
  exit "$code"
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [[ -e "$policy" || -L "$policy" ]]; then
  aside="$policy.clearway-lab.$$"
  mv -f "$policy" "$aside"
fi
placed=yes
# 101: the action is forbidden by policy (invoke-rc.d(8)).
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 0755 "$policy"

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none
apt=(apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold)

run() { # says what failed, with the end of what it wrote
  "$@" >"$log" 2>&1 </dev/null || { tail -n 30 "$log" >&2; die "failed: $*"; }
}

say "apt-get update"
run "${apt[@]}" update
say "apt-get install ${missing[*]}"
run "${apt[@]}" install --no-install-recommends "${missing[@]}"

for package in "${missing[@]}"; do
  for unit in ${units[$package]-}; do
    [[ -d /run/systemd/system ]] || continue
    systemctl cat "$unit" >/dev/null 2>&1 || continue
    # Stopped as well: systemd may have been told to start it by a path other than the package's script.
    run systemctl disable --now "$unit"
    say "disabled $unit, which came with $package"
  done
done
for line in "${needed[@]}"; do
  read -r program package <<<"$line"
  has "$program" || die "$package is installed, yet there is no $program"
done
say "done"
