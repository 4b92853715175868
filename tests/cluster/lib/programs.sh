# Builds the node's programs from Go modules into the cache: minutes once, then nothing. The folder's name is a hash of
# everything that they are made of, so that a new version is a new folder and two checkouts share one.

programs_key() {
  { echo "$kubernetes_version $helm_version $(uname -m)"; cat "$here"/node/* "$here"/dns/* "$here/pause.c"; } | sha256sum | cut -c 1-12
}
bin=$cache/node/$(programs_key)/bin

need_programs() {
  [ ! -f "$bin/.complete" ] || return 0
  command -v go > /dev/null || die "building the node needs Go $(sed -n 's/^go //p' "$here/node/go.mod") or newer: https://go.dev/dl"
  mkdir -p "$bin"
  exec {lock}> "$bin/.lock"
  flock -n "$lock" || { say "another run is building the same programs: waiting for it"; flock "$lock"; }
  if [ ! -f "$bin/.complete" ]; then
    build_programs
    touch "$bin/.complete"
  fi
  exec {lock}>&-
}

build_programs() {
  export CGO_ENABLED=0
  say "building a Kubernetes node from source, once: five to ten minutes on two cores"
  watched "1/6 fetching the Go modules of Kubernetes and etcd" go -C "$here/node" mod download
  watched "2/6 building Kubernetes $kubernetes_version" build_node
  watched "3/6 building CoreDNS" go -C "$here/dns" build -trimpath -ldflags '-s -w' -o "$bin/coredns" .
  watched "4/6 building helm $helm_version" build_helm
  watched "5/6 the sandbox program" cc -O2 -static -o "$bin/pause" "$here/pause.c"
  watched "6/6 the sandbox image" build_sandbox_image
  printf '#!/bin/sh\nexec "%s/node" kubectl "$@"\n' "$bin" > "$bin/kubectl"
  chmod +x "$bin/kubectl"
}

build_node() { # helm and kubectl look at the version strings
  local version=k8s.io/component-base/version minor=${kubernetes_version#v1.}
  go -C "$here/node" build -trimpath -o "$bin/node" -ldflags "-s -w \
    -X $version.gitVersion=$kubernetes_version -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*} \
    -X k8s.io/client-go/pkg/version.gitVersion=$kubernetes_version" .
}

build_helm() { GOBIN=$bin go install -trimpath -ldflags '-s -w' "helm.sh/helm/v4/cmd/helm@$helm_version"; }

sandbox_image=localhost/pause:1
build_sandbox_image() {
  local container
  container=$(buildah from scratch)
  buildah copy -q "$container" "$bin/pause" /pause
  buildah config --entrypoint '["/pause"]' --user 65535:65535 "$container"
  buildah commit -q --rm "$container" "$sandbox_image"
  rm -f "$bin/pause.tar"
  buildah push -q "$sandbox_image" "docker-archive:$bin/pause.tar:$sandbox_image"
}
