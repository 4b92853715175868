"""What only a real API server shows of the operator's store and its watches."""

import json

import pytest

from tests.e2e import events, release
from tests.e2e.kube import CommandError, Kube, Object, eventually


def test_an_apply_that_names_the_uid_of_an_object_that_is_gone_creates_nothing(shared_namespace: Kube) -> None:
    """The operator relies on it: an apply out of an old observation would make a Secret without a password."""
    kube = shared_namespace
    gone: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gone", "uid": "11111111-2222-3333"}}
    with pytest.raises(CommandError, match="uid mismatch"):
        kube.kubectl("apply", "--server-side", "--field-manager=test", "-f", "-", stdin=json.dumps(gone))
    assert kube.find("secret", "gone") is None


def test_a_child_that_is_deleted_is_there_again_and_the_watches_are_heard(shared_namespace: Kube) -> None:
    kube = shared_namespace
    kube.apply(events.unchecked(events.event("watched", events.window(**events.LATER))))
    before = eventually(lambda: kube.get("service", "watched-rw"), 60, "the Service is there")
    release.delete_as_operator(kube, "service", "watched-rw")

    def again() -> bool:
        return bool(kube.get("service", "watched-rw")["metadata"]["uid"] != before["metadata"]["uid"])

    eventually(again, 60, "the Service is there again")
    (pod,) = release.pods(kube)
    path = f"/api/v1/namespaces/{release.NAMESPACE}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
    metrics = kube.kubectl("get", "--raw", path)
    assert 'intake_operator_watch_silent_seconds{kind="IntakeEvent"}' in metrics
    assert 'intake_operator_api_requests_total{kind="IntakeEvent/status",verb="apply"}' in metrics
    assert 'intake_operator_api_requests_total{kind="Pod",verb="watch"}' in metrics
