# Starts the parts of our own node, in the order in which they need each other.

component() { # NAME COMPONENT [FLAG...]
  local name=$1
  shift
  start "$name" "$bin/node" "$@"
}

# start_part NAME: also the way back for one whose pid was ended, as a test of a control-plane outage does.
start_part() {
  local etc=$inside_root/etc pki=$inside_root/pki
  identity() { # the three flags with which a controller uses its kubeconfig
    printf -- '--%s=%s ' kubeconfig "$etc/$1.kubeconfig" authentication-kubeconfig "$etc/$1.kubeconfig" \
      authorization-kubeconfig "$etc/$1.kubeconfig"
  }
  # identity prints a list of words
  # shellcheck disable=SC2046
  case $1 in
    etcd)
      component etcd etcd --data-dir "$inside_root/etcd" --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn
      ;;
    apiserver)
      component apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address="$node_ip" \
        --advertise-address="$node_ip" --secure-port=6443 --tls-cert-file="$pki/apiserver.crt" \
        --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$pki/sa.pub" \
        --service-account-signing-key-file="$pki/sa.key" --service-cluster-ip-range="$service_range" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
        --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
        --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=aggregator \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- --proxy-client-cert-file="$pki/aggregator.crt" \
        --proxy-client-key-file="$pki/aggregator.key" --cert-dir="$inside_root/apiserver"
      ;;
    controllers)
      component controllers kube-controller-manager $(identity controllers) --leader-elect=false --root-ca-file="$pki/ca.crt" \
        --service-account-private-key-file="$pki/sa.key" --use-service-account-credentials \
        --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
        --allocate-node-cidrs --cluster-cidr="$pod_range"
      ;;
    scheduler) component scheduler kube-scheduler $(identity scheduler) --leader-elect=false ;;
    volumes)
      component volumes volumes --kubeconfig="$etc/volumes.kubeconfig" --root="$inside_root/volumes" --node=node
      ;;
    containerd) start containerd containerd -c "$etc/containerd.toml" ;;
    kubelet)
      component kubelet kubelet --config="$etc/kubelet.yaml" --kubeconfig="$etc/kubelet.kubeconfig" \
        --root-dir="$inside_root/kubelet" --cert-dir="$inside_root/kubelet-pki" --hostname-override=node --node-ip="$node_ip"
      ;;
    proxy) component proxy kube-proxy --config="$etc/proxy.yaml" ;;
    dns) start dns "$bin/coredns" -conf "$etc/Corefile" ;;
    *) die "no such part: $1" ;;
  esac
}

make_network() { # the node's address is a bridge; the default route leads nowhere, kube-proxy only wants one to be there
  # shellcheck disable=SC2016 # expanded by the inner shell
  inside sh -ec '
    ip link set lo up
    ip link add node0 type bridge
    ip addr add "$1/24" dev node0
    ip link set node0 up
    ip route add default via "$1"
    sysctl -qw net.ipv4.ip_forward=1
  ' sh "$node_ip"
}

raise_limit() { # the machine's limits for all watchers of files, never lowered
  local now
  now=$(sysctl -n "$1" 2> /dev/null) || return 0
  [ "$now" -ge "$2" ] || sysctl -qw "$1=$2"
}

start_node() {
  raise_limit fs.inotify.max_user_instances 1024
  raise_limit fs.inotify.max_user_watches 524288
  make_network
  start_part etcd
  start_part apiserver
  start_part containerd
  wait_for 60 "containerd" containers version || die "see $state/log/containerd.log"
  containers images import "$bin/pause.tar" > /dev/null
  wait_for 60 "the API server" kube get --raw /readyz || die "see $state/log/apiserver.log"
  start_part controllers
  start_part scheduler
  start_part volumes
  start_part kubelet
  start_part proxy
  start_part dns
  kube apply -f "$here/ways/storage-class.yaml" > /dev/null
  wait_for 60 "the node to register" kube get node/node || die "see $state/log/kubelet.log"
  kube wait --for=condition=Ready node/node --timeout=240s > /dev/null || die "see $state/log/kubelet.log"
  wait_for 30 "default service account" kube get serviceaccount/default
}

kube() { inside "$bin/kubectl" --kubeconfig "$inside_root/kubeconfig" "$@"; }
containers() { inside ctr --namespace k8s.io "$@"; }
