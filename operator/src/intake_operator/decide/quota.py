"""Whether the ResourceQuotas of a namespace have room for DB1 and the bridges of an event that waits."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from intake_operator.children import bridge, database
from intake_operator.children.installation import Installation
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.preflight import Check, failed, noted, ok
from intake_operator.model.quantity import amount, shown
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.reasons import Problem

# Scopes of a quota: those that our pods always have, and those that they never have. Of others it is not known.
ALL_HAVE: Final = frozenset({"NotTerminating", "NotBestEffort"})
OTHERS_HAVE: Final = frozenset({"Terminating", "BestEffort"})

type Amounts = Mapping[str, Decimal]
"""By the names that quotas have for them."""


def room(event: Event, spec: IntakeEventSpec, installation: Installation, quotas: Sequence[Manifest]) -> Check:
    """What the quotas leave, against what is wanted: too little for one bridge is a failure, for all is said.

    What other events want that wait beside this one is not counted.
    """
    ours = [quota for quota in quotas if not OTHERS_HAVE & _scopes(quota)]
    known = [quota for quota in ours if _scopes(quota) <= ALL_HAVE]
    least, most = max(spec.bridge.min_replicas, 1), spec.bridge.max_replicas
    if short := [*_short(known, _wanted(event, spec, installation, least))]:
        wrong = f"{'; '.join(short)}. That is too little for DB1 and {_bridges(least)}: raise the quota, or want less."
        return failed("quota", Problem.PODS_NOT_CREATED, wrong)
    found = [*_short(known, _wanted(event, spec, installation, most))]
    notes = [f"{each} for DB1 and {_bridges(most)}" for each in found] + [*_unbounded(event, spec, installation, known)]
    notes += [f"quota {_name(quota)} has a scope, and was not compared" for quota in ours if quota not in known]
    return noted("quota", "; ".join(notes)) if notes else ok("quota")


def _short(quotas: Sequence[Manifest], wanted: Amounts) -> Iterator[str]:
    for quota in quotas:
        status = quota.get("status") or {}
        hard = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}
        used = status.get("used") or {}
        for resource in sorted(hard.keys() & wanted.keys()):
            left = amount(hard[resource]) - amount(used.get(resource, 0))
            if left < wanted[resource]:
                yield (
                    f"quota {_name(quota)} has {shown(resource, max(left, Decimal(0)))} of {resource} left, and "
                    f"{shown(resource, wanted[resource])} are wanted"
                )


def _unbounded(
    event: Event, spec: IntakeEventSpec, installation: Installation, quotas: Sequence[Manifest]
) -> Iterator[str]:
    """Limits that a quota counts and a container of ours does not have."""
    pods = _pods(event, spec, installation)
    for quota in quotas:
        for resource in sorted((quota.get("spec") or {}).get("hard") or {}):
            kind, _, of = resource.rpartition(".")
            if kind in {"limits", "requests"} and of in {"cpu", "memory"}:
                lacking = [name for name, pod in pods.items() if not all(of in each[kind] for each in _resources(pod))]
                if lacking:
                    yield (
                        f"quota {_name(quota)} counts {resource}, and {' and '.join(lacking)} have none: their pods "
                        "are refused unless a LimitRange gives it"
                    )


def _wanted(event: Event, spec: IntakeEventSpec, installation: Installation, bridges: int) -> Amounts:
    """All that DB1 and so many bridges want."""
    wanted: defaultdict[str, Decimal] = defaultdict(Decimal)
    for component, pod in _pods(event, spec, installation).items():
        count = 1 if component == "DB1" else bridges
        wanted["pods"] += count
        wanted["count/pods"] += count
        for each in _resources(pod):
            for kind in ("requests", "limits"):
                for resource, quantity in each[kind].items():
                    wanted[f"{kind}.{resource}"] += amount(quantity) * count
    # Quotas have two names for requests.
    wanted.update({name: wanted[f"requests.{name}"] for name in ("cpu", "memory") if f"requests.{name}" in wanted})
    for workload in ("statefulsets", "deployments", "replicasets"):
        wanted[f"count/{workload}.apps"] = Decimal(1)
    if volume := spec.database.volume:
        size = amount(volume.size)
        classes = [f"{volume.storage_class_name}.storageclass.storage.k8s.io/"] if volume.storage_class_name else []
        for prefix in ("", *classes):
            wanted[f"{prefix}requests.storage"] = size
            wanted[f"{prefix}persistentvolumeclaims"] = Decimal(1)
        wanted["count/persistentvolumeclaims"] = Decimal(1)
    return wanted


def _pods(event: Event, spec: IntakeEventSpec, installation: Installation) -> dict[str, Manifest]:
    """The pods as they will be, by the name that a message has for them."""
    made = {
        "DB1": database.stateful_set(event, spec.database, installation, identity=""),
        "bridges": bridge.deployment(event, spec, installation, {}),
    }
    return {name: workload["spec"]["template"]["spec"] for name, workload in made.items()}


def _resources(pod: Manifest) -> list[dict[str, Manifest]]:
    """Requests and limits of each container. A limit without a request is the request as well."""
    each = [container.get("resources") or {} for container in pod["containers"]]
    limits = [resources.get("limits") or {} for resources in each]
    return [
        {"requests": limit | (resources.get("requests") or {}), "limits": limit}
        for resources, limit in zip(each, limits, strict=True)
    ]


def _scopes(quota: Manifest) -> set[str]:
    spec = quota.get("spec") or {}
    selected = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return {*(spec.get("scopes") or ()), *(each["scopeName"] for each in selected)}


def _name(quota: Manifest) -> str:
    return str(quota["metadata"]["name"])


def _bridges(count: int) -> str:
    return "1 bridge" if count == 1 else f"{count} bridges"
