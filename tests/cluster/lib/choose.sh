# Which way to a cluster: an explicitly named context, else kind where it can run, else our own node.

# The way that is in use already, or nothing.
current_way() {
  if [ -n "${INTAKE_CONTEXT:-}" ]; then
    echo context
  elif [ -f "$state/way" ]; then
    cat "$state/way"
  fi
}

choose_way() {
  local insisted=${INTAKE_CLUSTER_KIND:-}
  case $insisted in
    node | kind) way=$insisted; say "$way, as INTAKE_CLUSTER_KIND says" ;;
    '')
      . "$here/lib/versions.sh"
      . "$here/lib/engine.sh"
      if reason=$(why_no_kind); then
        way=node
        say "our own node, because kind cannot run: $reason"
      else
        way=kind
        say "kind, on $(container_engine)"
      fi
      ;;
    *) die "INTAKE_CLUSTER_KIND='$insisted': node or kind" ;;
  esac
}
