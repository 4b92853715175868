# Read by every script here: the versions, and where their programs are.
#
# 3.2 is the newest line of Argo CD that can be built from its Go module alone: from 3.3 on its gitops-engine is a folder
# of the repository, replaced by a path, and that folder is not in the module. v3.2.12 does not compile as published.
argocd_version=v3.2.11
helm3_version=v3.18.4 # the helm that this Argo CD ships: hack/tool-versions.sh in its module
argocd_module=github.com/argoproj/argo-cd/v3

argocd_cache=$cache/argocd
argocd=$argocd_cache/$argocd_version
