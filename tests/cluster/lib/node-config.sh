# The configuration files of our own node. Paths are the ones inside its namespaces; every node has the same
# addresses, because each has a network of its own.

node_ip=10.89.0.1
pod_range=10.88.0.0/16
service_range=10.96.0.0/16
server=https://$node_ip:6443

write_config() { # NAME, text on standard input
  cat > "$state/etc/$1"
}

configure_cni() {
  write_config cni/10-pods.conflist << JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$inside_root/cni", "ranges": [[{"subnet": "$pod_range"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower the score, and no sandbox would start.
configure_containerd() {
  write_config containerd.toml << TOML
version = 2
root = "$inside_root/containerd"
state = "/run/containerd/state"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "$sandbox_image"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$inside_root/etc/cni"
TOML
}

# cgroupRoot is what keeps two kubelets of one machine apart.
configure_kubelet() {
  echo "nameserver $node_ip" | write_config resolv.conf
  write_config kubelet.yaml << YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup_name
enforceNodeAllocatable: [none]
failSwapOn: false
clusterDNS: [$node_ip]
clusterDomain: cluster.local
resolvConf: $inside_root/etc/resolv.conf
tlsCertFile: $inside_root/pki/kubelet.crt
tlsPrivateKeyFile: $inside_root/pki/kubelet.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $inside_root/pki/ca.crt}}
authorization: {mode: Webhook}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 500
YAML
}

# The zeros: conntrack's sysctls are the machine's, not ours.
configure_proxy() {
  write_config proxy.yaml << YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $inside_root/etc/proxy.kubeconfig}
clusterCIDR: $pod_range
hostnameOverride: node
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
}

configure_dns() {
  write_config Corefile << COREFILE
.:53 {
  bind $node_ip
  errors
  ready $node_ip:8181
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $inside_root/etc/dns.kubeconfig
    ttl 5
  }
  cache 5
}
COREFILE
}

make_identities() {
  local pki=$state/pki name
  make_authority "$pki"
  make_identity "$pki" apiserver /CN=kube-apiserver \
    "IP:$node_ip,IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  make_identity "$pki" aggregator /CN=aggregator
  make_identity "$pki" kubelet /O=system:nodes/CN=system:node:node "IP:$node_ip,DNS:node"
  make_identity "$pki" admin /O=system:masters/CN=admin
  make_identity "$pki" controllers /CN=system:kube-controller-manager
  make_identity "$pki" scheduler /CN=system:kube-scheduler
  make_identity "$pki" proxy /CN=system:kube-proxy
  make_identity "$pki" volumes /O=system:masters/CN=volumes
  make_identity "$pki" dns /O=system:masters/CN=dns
  for name in kubelet controllers scheduler proxy volumes dns; do
    kubeconfig "$pki" "$name" "$server" | write_config "$name.kubeconfig"
  done
  kubeconfig "$pki" admin "$server" > "$state/kubeconfig"
}
