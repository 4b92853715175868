"""The operator as the tests install it: the Helm release, its pods, and what only the operator may do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.kube import REPOSITORY, Kube, Object, await_rollout, eventually

RELEASE = "intake-engine"
NAMESPACE = "intake-system"
SELECTOR = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=intake-engine"
GUARD_LABEL = "intake-engine.io/guarded-by"
# The value that our release writes into that label.
GUARD = f"{NAMESPACE}.{RELEASE}"
CHART = "charts/intake-engine"


def install(kube: Kube, *settings: str, chart: Path = REPOSITORY / CHART) -> None:
    """Install or upgrade the chart, watching every namespace; return when the operator is ready."""
    sets = [word for setting in settings for word in ("--set", setting)]
    operator = kube.create_namespace(NAMESPACE)
    # --reset-values: without a setting, helm would take those of the release before.
    wait = ("--reset-values", "--wait", "--timeout", "600s")
    operator.helm("upgrade", "--install", RELEASE, str(chart), *wait, *sets)


def is_installed(kube: Kube) -> bool:
    """Whether the release exists."""
    found: list[Object] = json.loads(kube.within(NAMESPACE).helm("list", "--output", "json"))
    return any(release["name"] == RELEASE for release in found)


def remove(kube: Kube) -> None:
    """Uninstall the chart and delete its namespace."""
    operator = kube.within(NAMESPACE)
    operator.helm("uninstall", RELEASE, "--wait", "--timeout", "300s")
    operator.delete("namespace", NAMESPACE)


def pods(kube: Kube) -> list[Object]:
    """The operator's pods: one, except while it is replaced."""
    return kube.within(NAMESPACE).items("pods", SELECTOR)


@contextmanager
def scaled_to_zero(kube: Kube) -> Iterator[None]:
    """No operator runs inside this block."""
    operator = kube.within(NAMESPACE)
    operator.kubectl("scale", f"deployment/{RELEASE}", "--replicas=0")
    eventually(lambda: not pods(kube), 60, "the operator has no pods")
    yield
    operator.kubectl("scale", f"deployment/{RELEASE}", "--replicas=1")
    await_rollout(operator, f"deployment/{RELEASE}")


def delete_as_operator(kube: Kube, kind: str, name: str, *flags: str) -> None:
    """Delete a child with the operator's identity: the admission policies refuse it to a user."""
    kube.delete(kind, name, f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}", *flags)
