"""Whether DB1's pod has to be replaced: its StatefulSet updates it only when it is deleted (OnDelete)."""

from datetime import datetime, timedelta
from typing import Final

from intake_operator import names
from intake_operator.children.database import is_being_deleted
from intake_operator.decide.stage import was_claimable
from intake_operator.model import pods
from intake_operator.model.observed import Event, Manifest, Observed

# DB1 is not restarted for a changed definition when the window is this near: a start takes seconds, a recovery longer.
QUIET_BEFORE: Final = timedelta(minutes=5)


def to_replace(event: Event, observed: Observed, now: datetime) -> tuple[str, str] | None:
    """The name of DB1's pod, and why it has to be replaced; None if it should be left alone.

    A StatefulSet does not replace a pod that cannot start, so a corrected image or node selector would have no effect.
    One that has started is left alone while its window is near or open, also while it is too busy for its probe.
    """
    pod = _pod(observed)
    if pod is None or ("StatefulSet", names.database(event.name)) not in observed.children:
        return None
    if event.spec and event.spec.database.volume is None and was_claimable(event, observed):
        # The pod is the data: no replacement is worth an acknowledged claim.
        return None
    name = pod["metadata"]["name"]
    claim = observed.children.get(("PersistentVolumeClaim", names.volume_claim(event.name)))
    if is_being_deleted(claim) and not was_claimable(event, observed):
        return name, "its volume claim is being deleted, and nothing was sold from it"
    if observed.database.login_failed:
        return name, "its superuser password is not the one in the Secret, which it reads only at its start"
    outdated = _is_outdated(event, observed, pod)
    if outdated and not pods.is_ready(pod) and not pods.has_started(pod):
        return name, "it has not started, and its definition has changed since"
    if outdated and event.spec and now + QUIET_BEFORE < event.spec.window.opens_at:
        return name, "its definition has changed, and the window is not near"
    return None


def waiting(event: Event, observed: Observed, now: datetime) -> str:
    """What to say of a changed definition of DB1 that its pod does not have yet, and does not get now."""
    pod = _pod(observed)
    if pod is None or not _is_outdated(event, observed, pod) or to_replace(event, observed, now):
        return ""
    if event.spec and event.spec.database.volume is None:
        return "its pod has an earlier definition, and keeps it, because the pod is the data"
    name = pod["metadata"]["name"]
    return (
        "its pod has an earlier definition than it would get now, and keeps it until its next start; "
        f"`kubectl delete pod {name}` replaces it, at the price of seconds without claims"
    )


def _pod(observed: Observed) -> Manifest | None:
    return next((p for p in pods.of_component(observed.pods, "database") if not pods.is_terminating(p)), None)


def _is_outdated(event: Event, observed: Observed, pod: Manifest) -> bool:
    workload = observed.children.get(("StatefulSet", names.database(event.name))) or {}
    revision = (workload.get("status") or {}).get("updateRevision")
    return bool(revision) and pod["metadata"]["labels"].get("controller-revision-hash") != revision
