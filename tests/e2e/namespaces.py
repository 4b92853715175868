"""Namespaces of the tests: dump the state for a failed test, and clean up."""

from tests.e2e import events, release
from tests.e2e.kube import CommandError, Kube, eventually

# How long the clean-up waits for abandoned events.
ABANDON_SECONDS = 90.0


def abandon_events_and_delete(kube: Kube) -> None:
    """Abandon the events that are left, so that the namespace can be deleted; do not wait for its end."""
    for found in kube.items("intakeevents"):
        name = found["metadata"]["name"]
        kube.patch("intakeevent", name, {"metadata": {"annotations": {events.ABANDON_ANNOTATION: name}}})
        kube.delete("intakeevent", name)
    try:
        eventually(lambda: not kube.items("intakeevents"), ABANDON_SECONDS, "the abandoned events are gone")
    except AssertionError:
        for found in kube.items("intakeevents"):
            # Labels and finalizers of the children too: they would keep the namespace.
            events.remove_by_hand(kube, found["metadata"]["name"])
    kube.kubectl("delete", "namespace", kube.namespace, "--wait=false", "--ignore-not-found")


def dump(kube: Kube) -> str:
    """The state that explains a failed test: custom resources, pods, events, logs of operator, bridges and DB1."""
    operator = kube.within(release.NAMESPACE)
    commands = [
        (kube, ("get", "intakeevents", "-o", "yaml")),
        (kube, ("get", "all,pvc,secrets,networkpolicies,pdb,configmaps", "-o", "wide")),
        (kube, ("get", "events", "--sort-by=.lastTimestamp")),
        (kube, ("logs", "--selector", "app.kubernetes.io/component=bridge", "--prefix", "--tail=80")),
        (kube, ("logs", "--selector", "app.kubernetes.io/component=database", "--prefix", "--tail=80")),
        (operator, ("logs", "--selector", release.SELECTOR, "--tail=400")),
        (operator, ("get", "pods", "-o", "wide")),
    ]
    return "\n".join(f"--- kubectl {' '.join(words)}\n{_output(where, words)}" for where, words in commands)


def _output(kube: Kube, arguments: tuple[str, ...]) -> str:
    try:
        return kube.kubectl(*arguments)
    except CommandError as error:
        return str(error)
