# kubectl, helm and intake-admin for one cluster, as small scripts in a folder of their own that `cluster env` puts on the
# PATH. Each sets the kubeconfig and enters the cluster's network by itself, so it works in any shell, also by its path.

# write_commands FOLDER KUBECONFIG PROGRAMS [ENTER]: PROGRAMS is a PATH on which the real kubectl and helm are; ENTER is
# the script that runs a command in the cluster's network, where it has one of its own.
write_commands() {
  local folder=$1 config=$2 programs=$3 enter=${4:-} name program
  mkdir -p "$folder"
  for name in kubectl helm intake-admin; do
    program=$root/.venv/bin/$name
    [ "$name" = intake-admin ] || program=$(PATH=$programs command -v "$name") || die "no $name on the PATH"
    write_script "$folder/$name" <<SCRIPT
#!/bin/sh
# $name for the cluster $context; written by tests/cluster.
export KUBECONFIG='$config'
# Clusters that have the same address would otherwise share what kubectl and helm remember of an API server.
export KUBECACHEDIR='$folder/.cache'
exec ${enter:+"'$enter' "}'$program' "\$@"
SCRIPT
  done
}

# Replaced in one step: another command of this cluster may be running the script.
write_script() {
  cat > "$1.new"
  chmod 755 "$1.new"
  mv "$1.new" "$1"
}

# env_lines FOLDER KUBECONFIG ENTER KIND: what `cluster env` prints.
env_lines() {
  echo "export KUBECONFIG='$2'"
  echo "export KUBECACHEDIR='$1/.cache'"
  echo "export PATH='$1':\"\$PATH\""
  echo "export INTAKE_RUN='$3'"
  echo "export INTAKE_CLUSTER_KIND=$4"
}
