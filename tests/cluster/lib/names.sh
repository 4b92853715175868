# What things are called and where they are. Two clusters share nothing but the cache of built programs and images.

root=$(cd "$here/../.." && pwd)
cache=${INTAKE_CACHE:-$HOME/.cache/intake-engine}

# Scripts that `env` of this or another cluster has put on the PATH (lib/commands.sh) are not the programs themselves.
PATH=$(tr ':' '\n' <<< "$PATH" | grep -vE "^$cache/(clusters|contexts)/" | paste -s -d ':')

default_name() { # the checkout's folder and a few characters of its path: two checkouts, two clusters
  printf '%s-%s' "$(basename "$root" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9-' | sed 's/^-*//' | cut -c 1-16)" \
    "$(printf %s "$root" | sha256sum | cut -c 1-6)"
}
cluster=${INTAKE_CLUSTER:-$(default_name)}
[[ $cluster =~ ^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$ ]] ||
  die "INTAKE_CLUSTER='$cluster': at most 32 lower-case letters, digits and hyphens"

context=intake-$cluster
state=$cache/clusters/$cluster

# Where `image: NAME` of a manifest looks.
full_image_name() {
  local first=${1%%/*}
  case $1 in
    */*) if [[ $first == *[.:]* || $first == localhost ]]; then echo "$1"; else echo "docker.io/$1"; fi ;;
    *) echo "docker.io/library/$1" ;;
  esac
}
