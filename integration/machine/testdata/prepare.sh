# What a distribution's boot has done before the kubelet starts, and what keeps the kubelet's hands off the host's kernel.
set -eu
mount --make-rshared /
# cgroups as the host has them: the node's /sys is new and has none.
if grep -q '^0::' /proc/self/cgroup && [ "$(wc -l </proc/self/cgroup)" = 1 ]; then
  mount -t cgroup2 none /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 none /sys/fs/cgroup
  while IFS=: read -r _ controllers _; do
    [ -n "$controllers" ] || continue
    mkdir -p "/sys/fs/cgroup/${controllers#name=}"
    case "$controllers" in name=*) options="none,$controllers" ;; *) options="$controllers" ;; esac
    mount -t cgroup -o "$options" none "/sys/fs/cgroup/${controllers#name=}"
  done </proc/self/cgroup
fi
# The kubelet sets these where they differ from what it wants. They are the whole machine's, so it sees what it wants.
mkdir -p /run/machine
want() {
  file="/run/machine/$(echo "$1" | tr / .)"
  echo "$2" >"$file"
  [ ! -e "/proc/sys/$1" ] || mount --bind "$file" "/proc/sys/$1"
}
want vm/overcommit_memory 1
want vm/panic_on_oom 0
want kernel/panic 10
want kernel/panic_on_oops 1
want kernel/keys/root_maxkeys 1000000
want kernel/keys/root_maxbytes 25000000
