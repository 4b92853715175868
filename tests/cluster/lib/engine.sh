# What this machine builds and runs images with. A command that is installed proves nothing: its engine has to answer.

engine_answers() { command -v "$1" > /dev/null && timeout 15 "$1" info > /dev/null 2>&1; }

# The engine that can run containers, for kind.
container_engine() {
  local engine
  for engine in docker podman; do
    if engine_answers "$engine"; then echo "$engine"; return; fi
  done
  return 1
}

# Prints the reason and succeeds when kind cannot run here; fails when it can.
why_no_kind() {
  local engine answer
  engine=$(container_engine) || { echo "no container engine answers (docker, podman)"; return 0; }
  if ! answer=$(timeout 600 "$engine" run --rm --privileged --entrypoint true "$kind_node_image" 2>&1); then
    echo "$engine cannot run a privileged $kind_node_image: $(tail -n 1 <<< "$answer")"
    return 0
  fi
  return 1
}

# The command that builds images: an engine that answers, else buildah, which needs none.
image_builder() { container_engine || { command -v buildah > /dev/null && echo buildah; }; }

# save_image IMAGE FILE: an archive that carries the name which manifests resolve to, its layers not compressed.
save_image() {
  local name
  name=$(full_image_name "$1")
  case $(image_builder) in
    docker) docker tag "$1" "$name" && docker save -o "$2" "$name" ;;
    podman) podman tag "$1" "$name" && podman save -q --format docker-archive -o "$2" "$name" ;;
    buildah) buildah push -q "$1" "docker-archive:$2:$name" ;;
    *) die "no docker, podman or buildah on this machine" ;;
  esac
}

image_id() {
  case $(image_builder) in
    buildah) buildah inspect --type image --format '{{.FromImageID}}' "$1" ;;
    docker) docker image inspect --format '{{.Id}}' "$1" ;;
    podman) podman image inspect --format '{{.Id}}' "$1" ;;
  esac 2> /dev/null
}
