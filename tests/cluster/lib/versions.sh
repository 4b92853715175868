# The versions of what is built or fetched for a cluster. etcd and CoreDNS are pinned by node/go.mod and dns/go.mod.

kubernetes_version=v1.36.3
helm_version=v4.3.1
kind_version=v0.33.0
# What kind_version itself would take, so that what was tried is what is used.
kind_node_image=kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5
