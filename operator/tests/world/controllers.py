"""Kubernetes' own controllers: each is a function that reads all objects once. It may run late at any time."""

from collections.abc import Callable
from typing import Final

from intake_operator.kube.client import ApiError
from intake_operator.model.observed import Manifest

from .api import COLLECTOR, FOREGROUND, GRACEFUL, IN_USE, NAMESPACES, ORPHAN, Api, owners


def stateful_sets(api: Api) -> None:
    """Create the volume claim, then the pod; no pod on a claim that is being deleted."""
    for made in api.of("StatefulSet"):
        if "deletionTimestamp" in made["metadata"]:
            continue
        name = f"{made['metadata']['name']}-0"
        if not made["spec"]["replicas"]:
            _end(api, name)
            continue
        for template in made["spec"].get("volumeClaimTemplates", ()):
            claim = f"{template['metadata']['name']}-{name}"
            if api.find("PersistentVolumeClaim", claim) is None and not api.terminating:
                meta = {**template["metadata"], "name": claim}
                api.put({**template, "kind": "PersistentVolumeClaim", "metadata": meta})
            held = api.find("PersistentVolumeClaim", claim)
            if held is None or "deletionTimestamp" in held["metadata"]:
                break
        else:
            _start(api, made, name)


def deployments(api: Api) -> None:
    """Create and delete pods to the wanted number; the ReplicaSet in between is left out."""
    for made in api.of("Deployment"):
        if "deletionTimestamp" in made["metadata"]:
            continue
        for number in range(4):
            name = f"{made['metadata']['name']}-{number}"
            if number < made["spec"]["replicas"]:
                _start(api, made, name)
            else:
                _end(api, name)


def _start(api: Api, owner: Manifest, name: str) -> None:
    reference = {"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    reference |= {"controller": True, "blockOwnerDeletion": True}
    found = api.find("Pod", name)
    if found and not list(owners(found)):  # an orphan is adopted
        found["metadata"]["ownerReferences"] = [reference]
        api.touch(found)
    if found or api.terminating:
        return
    labels = owner["spec"]["template"]["metadata"]["labels"]
    meta = {"name": name, "labels": labels, "ownerReferences": [reference]}
    made = api.put({"kind": "Pod", "metadata": meta})
    since = made["metadata"]["creationTimestamp"]
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": since}
    made["status"] = {"conditions": [ready], "containerStatuses": [{"state": {"running": {"startedAt": since}}}]}
    api.touch(made)


def _end(api: Api, name: str) -> None:
    pod = api.find("Pod", name)
    if pod and "deletionTimestamp" not in pod["metadata"]:
        api.remove_of(("Pod", name), "their controller")


def kubelet(api: Api) -> None:
    """End the pods that are being deleted."""
    for pod in api.of("Pod"):
        api.release(pod, ended=True)


def claims_in_use(api: Api) -> None:
    """Release a volume claim that is being deleted when no pod uses it."""
    for claim in api.of("PersistentVolumeClaim"):
        used = any(claim["metadata"]["name"].endswith(f"-{pod['metadata']['name']}") for pod in api.of("Pod"))
        if "deletionTimestamp" in claim["metadata"] and not used:
            api.release(claim, IN_USE)


def collector(api: Api, kind: str = "") -> None:
    """The garbage collector: dependents (of one kind, if it has not got further), then owners that wait or let go."""
    for manifest in [*api.objects.values()]:
        if kind in {"", manifest["kind"]} and (manifest["kind"], manifest["metadata"]["name"]) in api.objects:
            _collect(api, manifest)
    if kind:
        return
    for manifest in [*api.objects.values()]:
        finalizers = manifest["metadata"].get("finalizers") or ()
        if FOREGROUND in finalizers and not any(_blocks(each, manifest) for each in api.objects.values()):
            api.release(manifest, FOREGROUND)
        if ORPHAN in finalizers:
            for each in api.objects.values():
                _strip(api, each, {manifest["metadata"]["uid"]})
            api.release(manifest, ORPHAN)


def _collect(api: Api, manifest: Manifest) -> None:
    """attemptToDeleteItem: an owner is absent (dangling), waits for its dependents, or is solid."""
    references = list(owners(manifest))
    if not references or "deletionTimestamp" in manifest["metadata"]:
        return
    solid, waiting, dangling = set(), set(), set()
    for reference in references:
        owner = api.find(reference["kind"], reference["name"])
        if owner is None or owner["metadata"]["uid"] != reference["uid"]:
            dangling.add(reference["uid"])
        elif FOREGROUND in (owner["metadata"].get("finalizers") or ()) and "deletionTimestamp" in owner["metadata"]:
            waiting.add(reference["uid"])
        else:
            solid.add(reference["uid"])
    if solid:
        _strip(api, manifest, waiting | dangling)
        return
    uid = manifest["metadata"]["uid"]
    has_dependents = any(uid == reference["uid"] for each in api.objects.values() for reference in owners(each))
    try:
        key = manifest["kind"], manifest["metadata"]["name"]
        api.remove_of(key, COLLECTOR, FOREGROUND if waiting and has_dependents else "")
    except ApiError as error:
        if error.status != 403:
            raise


def _blocks(manifest: Manifest, owner: Manifest) -> bool:
    uid = owner["metadata"]["uid"]
    return any(each["uid"] == uid and each.get("blockOwnerDeletion") for each in owners(manifest))


def _strip(api: Api, manifest: Manifest, uids: set[str]) -> None:
    left = [each for each in owners(manifest) if each["uid"] not in uids]
    if len(left) < len(list(owners(manifest))):
        manifest["metadata"]["ownerReferences"] = left
        api.touch(manifest)


def namespaces(api: Api) -> None:
    """Everything in a namespace that is being deleted: pods first; while one of them ends, nothing else."""
    if not api.terminating or api.find("Namespace", api.namespace) is None:
        return
    for pods in (True, False):
        if not pods and any("deletionTimestamp" in pod["metadata"] for pod in api.of("Pod")):
            return
        for key, manifest in list(api.objects.items()):
            new = "deletionTimestamp" not in manifest["metadata"]
            if key[0] != "Namespace" and (key[0] in GRACEFUL) is pods and new:
                try:
                    api.remove_of(key, NAMESPACES)
                except ApiError as error:
                    if error.status != 403:
                        raise
    if set(api.objects) == {("Namespace", api.namespace)}:
        api.objects.clear()


CONTROLLERS: Final[dict[str, Callable[[Api], None]]] = {
    "stateful sets": stateful_sets,
    "deployments": deployments,
    "kubelet": kubelet,
    "claims in use": claims_in_use,
    "collector": collector,
    "collector, StatefulSets": lambda api: collector(api, "StatefulSet"),
    "collector, volume claims": lambda api: collector(api, "PersistentVolumeClaim"),
    "namespaces": namespaces,
}


def settle(api: Api) -> None:
    """Run all of them until nothing changes any more."""
    for _ in range(20):
        before = [(key, each["metadata"]["resourceVersion"]) for key, each in api.objects.items()]
        for controller in CONTROLLERS.values():
            controller(api)
        if before == [(key, each["metadata"]["resourceVersion"]) for key, each in api.objects.items()]:
            return
    raise AssertionError("the controllers change something for ever")
