# The versions of what is built or fetched for a cluster. Kubernetes, etcd and CoreDNS are pinned by node/go.sum and dns/go.sum.

kubernetes_version=v1.36.3
helm_version=v4.3.1
kind_version=v0.33.0
kind_node_image=kindest/node:$kubernetes_version
