# kind: a node as a container, where an engine answers and grants what it needs.

. "$here/lib/versions.sh"
. "$here/lib/engine.sh"
. "$here/lib/tools.sh"
. "$here/lib/commands.sh"

engine=$(container_engine) || die "docker or podman no longer answers; $cluster was made with it"
export KIND_EXPERIMENTAL_PROVIDER=$engine
export KUBECONFIG=$state/kubeconfig

way_up() {
  need_tool kind "sigs.k8s.io/kind@$kind_version"
  need_tool helm "helm.sh/helm/v4/cmd/helm@$helm_version"
  if kind get clusters 2> /dev/null | grep -qx "$context" && [ -f "$KUBECONFIG" ]; then
    "$engine" start "$context-control-plane" > /dev/null # it may have stopped with the machine
    say "$context runs already, on kind"
  else
    mkdir -p "$state" "$tools"
    echo kind > "$state/way"
    watched "making the kind cluster $context" kind create cluster --name "$context" --image "$kind_node_image" --wait 120s
    command -v kubectl > /dev/null || "$engine" cp "$context-control-plane:/usr/bin/kubectl" "$tools/kubectl"
    kubectl config rename-context "kind-$context" "$context" > /dev/null
  fi
  wait_for 60 "the API server" kubectl get --raw /readyz || die "see '$engine logs $context-control-plane'"
  write_commands "$state/commands" "$KUBECONFIG" "$PATH"
}

way_down() {
  need_tool kind "sigs.k8s.io/kind@$kind_version"
  kind delete cluster --name "$context"
  rm -rf "$state"
}

way_status() {
  echo "$context: kind on $engine"
  kubectl get nodes
}

way_load() {
  local image archive
  for image in "$@"; do
    archive=$(mktemp --suffix=.tar)
    save_image "$image" "$archive"
    kind load image-archive "$archive" --name "$context"
    rm -f "$archive"
    say "loaded $image"
  done
}

way_env() {
  env_lines "$state/commands" "$KUBECONFIG" "" kind
  echo "export INTAKE_CLUSTER='$cluster'"
}
