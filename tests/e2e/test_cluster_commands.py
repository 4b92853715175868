"""What `tests/cluster/cluster env` puts on the PATH: commands that reach this cluster, and no other, from any shell."""

import os
from pathlib import Path

from tests.e2e.kube import REPOSITORY, Kube, run


def test_kubectl_and_helm_of_cluster_env_work_outside_of_the_cluster_s_network_and_keep_a_cache_of_their_own(
    cluster: Kube, tmp_path: Path
) -> None:
    # Our own node has a network of its own, and the tests run in it: leave it for an empty one.
    outside = ("unshare", "--net") if os.environ["INTAKE_CLUSTER_KIND"] == "node" else ()
    elsewhere = tmp_path / "another-kubeconfig"
    script = f"""
        eval "$({REPOSITORY}/tests/cluster/cluster env)"
        cd /
        export KUBECONFIG={elsewhere}
        kubectl config current-context
        kubectl get --raw /readyz && echo
        kubectl get intakeevents --all-namespaces --output=name > {tmp_path}/events
        helm list --all-namespaces --output=yaml | grep 'name: intake-engine'
        [ "$KUBECACHEDIR" != "$HOME/.kube/cache" ] && ls "$KUBECACHEDIR"
    """
    lines = run(*outside, "bash", "-euo", "pipefail", "-c", script).splitlines()
    assert lines[:2] == [cluster.context, "ok"]
    assert "discovery" in lines
    assert not elsewhere.exists()
