# Debian packages that our own node and buildah need. Nothing is asked of apt when all are there.

node_packages=(containerd runc containernetworking-plugins buildah nftables iptables iproute2 conntrack procps util-linux openssl
  mmdebstrap gcc libc6-dev ca-certificates)

need_packages() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get > /dev/null || die "install these first, this machine has no apt-get: ${missing[*]}"
  watched "installing packages: ${missing[*]}" install_packages "${missing[@]}"
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get install -y --no-install-recommends "$@" ||
    { as_root apt-get update && as_root apt-get install -y --no-install-recommends "$@"; }
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    command -v sudo > /dev/null || die "this needs root or sudo: $*"
    sudo -E "$@"
  fi
}
