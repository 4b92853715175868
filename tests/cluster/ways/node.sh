# Our own node: Kubernetes as processes of this machine, in namespaces of their own.

[ "$(uname -s)" = Linux ] || die "our own node needs Linux; here, name a cluster with INTAKE_CONTEXT"
if [ "$(id -u)" != 0 ] && [[ $command =~ ^(up|down|load)$ ]]; then
  command -v sudo > /dev/null || die "our own node needs root or sudo"
  exec sudo -E env HOME="$HOME" PATH="$PATH" "$here/cluster" "$command" "$@"
fi
. "$here/lib/versions.sh"
. "$here/lib/engine.sh"
. "$here/lib/packages.sh"
. "$here/lib/programs.sh"
. "$here/lib/namespaces.sh"
. "$here/lib/commands.sh"
. "$here/lib/pki.sh"
. "$here/lib/node-config.sh"
. "$here/lib/node-parts.sh"

way_up() {
  local began=$SECONDS
  if running; then
    say "$context runs already, on our own node"
  else
    need_packages "${node_packages[@]}"
    need_programs
    [ ! -d "$state" ] || { say "cleaning up what an ended node left"; take_away; }
    say "starting $context on our own node"
    mkdir -p "$state"/{pki,log,var-log,pids,etc/cni,etcd,containerd,kubelet,volumes,cni,loaded}
    chmod 700 "$state"
    echo node > "$state/way"
    trap 'code=$?; [ $code = 0 ] || { say "start failed; logs are in $state/log"; end_namespaces; }' EXIT
    make_identities
    configure_cni
    configure_containerd
    configure_kubelet
    configure_proxy
    configure_dns
    make_cgroups
    make_namespaces
    start_node
    say "node Ready after $((SECONDS - began)) s"
  fi
  write_enter
  write_commands "$state/commands" "$state/kubeconfig" "$bin" "$state/enter"
}

# The script that runs a command in the node's network, with the node's kubectl and helm first on the PATH.
write_enter() {
  write_script "$state/enter" <<SCRIPT
#!/bin/sh
# enter COMMAND...: runs it in the network of the cluster $context; written by tests/cluster.
read -r pid start 2> /dev/null < '$state/holder'
if [ "\$(sed 's/.*) //' "/proc/\$pid/stat" 2> /dev/null | cut -d ' ' -f 20)" != "\${start:-none}" ]; then
  echo "$context has stopped: start it again with 'make cluster'" >&2
  exit 1
fi
export PATH='$bin':"\$PATH"
[ "\$(id -u)" != 0 ] || exec nsenter --target "\$pid" --net -- "\$@"
exec sudo -E nsenter --target "\$pid" --net --setuid "\$(id -u)" --setgid "\$(id -g)" -- env PATH="\$PATH" "\$@"
SCRIPT
}

running() { [ -d "$state" ] && holder > /dev/null && kube get --raw /readyz > /dev/null 2>&1; }

take_away() {
  end_namespaces
  wait_for 10 "control groups to empty" remove_cgroups || say "control groups stay: $cgroup_name"
  rm -rf --one-file-system "$state"
}

way_down() {
  say "taking $context away"
  take_away
}

way_status() {
  local pid part
  if ! pid=$(holder); then
    echo "$context: stopped, what it left is in $state ('up' and 'down' both clean it up)"
    return
  fi
  echo "$context: our own node, held by pid $pid, state in $state"
  for part in "$state"/pids/*; do
    printf '  %-12s pid %-8s %s\n' "$(basename "$part")" "$(cat "$part")" "$([ -d "/proc/$(cat "$part")" ] && echo runs || echo ended)"
  done
  kube get nodes
}

way_load() {
  local image archive id name
  for image in "$@"; do
    name=$(full_image_name "$image")
    id=$(image_id "$image") && [ -n "$id" ] || die "no image $image on this machine: make it with 'make images'"
    if [ "$(cat "$state/loaded/${name//\//_}" 2> /dev/null)" = "$id" ]; then
      say "$name is there already"
      continue
    fi
    archive=$(mktemp -u "$state/image-XXXXXX.tar")
    save_image "$image" "$archive"
    containers images import "$inside_root/$(basename "$archive")" > /dev/null
    rm -f "$archive"
    echo "$id" > "$state/loaded/${name//\//_}"
    say "loaded $name"
  done
}

way_env() {
  holder > /dev/null || die "$context has stopped: start it again with 'make cluster'"
  env_lines "$state/commands" "$state/kubeconfig" "$state/enter" node
  echo "export INTAKE_CLUSTER='$cluster'"
}
