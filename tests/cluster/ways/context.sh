# A cluster of the user's own, named with INTAKE_CONTEXT. Nothing is made there and nothing is taken away.

. "$here/lib/versions.sh"
. "$here/lib/tools.sh"
. "$here/lib/commands.sh"
context=$INTAKE_CONTEXT

way_up() {
  command -v kubectl > /dev/null || die "INTAKE_CONTEXT needs the kubectl that you use with it on the PATH"
  need_tool helm "helm.sh/helm/v4/cmd/helm@$helm_version"
  kubectl --context "$context" get --raw /readyz > /dev/null || die "the context '$context' does not answer"
  say "the context $context, as INTAKE_CONTEXT says; it stays as it is"
}

way_down() { say "the context $context is not ours: left alone"; }
way_status() { kubectl --context "$context" get nodes; }

# There is no way into an unknown cluster's image store but a registry.
way_load() { say "not loaded into $context, it has to pull them from a registry: $*"; }

# A copy of the kubeconfig with this context as the current one: a plain kubectl or helm cannot reach another by mistake.
way_env() {
  local folder=$cache/contexts/${context//\//_}
  mkdir -p "$folder"
  # By way of a second file: KUBECONFIG may name the first.
  (umask 077; kubectl config view --context "$context" --minify --flatten > "$folder/kubeconfig.new") || die "no context '$context'"
  mv "$folder/kubeconfig.new" "$folder/kubeconfig"
  write_commands "$folder/commands" "$folder/kubeconfig" "$PATH"
  env_lines "$folder/commands" "$folder/kubeconfig" "" context
  echo "export INTAKE_CONTEXT='$context'"
}
