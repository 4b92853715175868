# The node lives in namespaces of its own (processes, mounts, network), held by one small process. Ending that process
# ends every other in there, and the kernel takes mounts, interfaces and network namespaces with it: nothing can stay.

# Everything of the node is at this path inside, whatever the checkout's or the home folder's name: sockets may not
# have long names.
inside_root=/run/node

# A pid alone may belong to another process after a restart of the machine; with the start time it may not.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2> /dev/null | cut -d ' ' -f 20; }
child_of() { cut -d ' ' -f 1 "/proc/$1/task/$1/children" 2> /dev/null; }
has_child() { [ -n "$(child_of "$1")" ]; }

holder() { # the host's pid of the process that holds the namespaces, if it lives
  local pid start
  [ -f "$state/holder" ] && read -r pid start < "$state/holder" || return 1
  [ -n "$start" ] && [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}

make_namespaces() {
  local wrapper pid
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid nohup unshare --mount --net --pid --fork --kill-child=KILL --mount-proc sh -ec '
    state=$1 bin=$2 inside=$3
    mount --make-rshared /
    mount -t tmpfs -o mode=755 none /run
    mkdir -p "$inside" /run/netns /var/lib/cni
    mount -t tmpfs -o mode=755 none /var/lib/cni
    mount --bind "$state/var-log" /var/log
    mount --bind "$state" "$inside"
    exec "$bin/pause"
  ' sh "$state" "$bin" "$inside_root" > "$state/log/holder.log" 2>&1 < /dev/null 9>&- &
  wrapper=$!
  wait_for 10 "namespaces" has_child "$wrapper" || { kill -KILL "$wrapper"; die "cannot make namespaces: $(cat "$state/log/holder.log")"; }
  pid=$(child_of "$wrapper")
  printf '%s %s\n' "$pid" "$(started_at "$pid")" > "$state/holder"
  wait_for 10 "the node's mounts" inside test -d "$inside_root/log" || die "cannot mount: $(cat "$state/log/holder.log")"
}

inside() { nsenter --target "$(holder)" --mount --net --pid -- "$@"; }

# start NAME COMMAND...: a daemon of the node; log/NAME.log and pids/NAME (the host's pid) are its traces.
start() {
  local name=$1 wrapper held
  shift
  held=$(holder)
  setsid nohup nsenter --target "$held" --mount --net --pid -- "$@" > "$state/log/$name.log" 2>&1 < /dev/null 9>&- &
  wrapper=$!
  wait_for 10 "$name to start" has_child "$wrapper" || die "$name: $(tail -n 5 "$state/log/$name.log")"
  child_of "$wrapper" > "$state/pids/$name"
}

end_namespaces() {
  local pid
  pid=$(holder) || return 0
  kill -KILL "$pid"
  wait_for 30 "the node's processes to end" gone "$pid" || die "processes of the node do not end: see pid $pid"
}
gone() { [ ! -d "/proc/$1" ]; }

# -- control groups: one folder of our own in each hierarchy, whether the machine has version 1, version 2 or both

cgroup_name=intake-$cluster
cgroup_hierarchies() { awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts; }

make_cgroups() {
  local at
  for at in $(cgroup_hierarchies); do
    mkdir -p "$at/$cgroup_name"
    if [ -f "$at/cpuset.cpus" ]; then # a new cpuset is empty, and then takes no process
      cat "$at/cpuset.cpus" > "$at/$cgroup_name/cpuset.cpus"
      cat "$at/cpuset.mems" > "$at/$cgroup_name/cpuset.mems"
    fi
    if [ -f "$at/cgroup.subtree_control" ]; then
      sed 's/[a-z_]\+/+&/g' "$at/cgroup.controllers" > "$at/cgroup.subtree_control" 2> /dev/null || true
    fi
  done
}

remove_cgroups() {
  local at
  for at in $(cgroup_hierarchies); do
    [ ! -d "$at/$cgroup_name" ] || find "$at/$cgroup_name" -depth -type d -exec rmdir {} + || return 1
  done 2> /dev/null
}
