# Single programs for a cluster that is not our own node: the machine's, else built from their Go modules into the cache.

tools=$cache/tools/bin

# need_tool NAME MODULE@VERSION
need_tool() {
  ! command -v "$1" > /dev/null || return 0
  [ ! -x "$tools/$1" ] || return 0
  command -v go > /dev/null || die "$1 is not installed, and Go to build it is not either"
  mkdir -p "$tools"
  watched "building $1 from $2" env GOBIN="$tools" CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$2"
}
PATH=$tools:$PATH
