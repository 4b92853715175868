"""The pod template of a workload, in a sale that another version of the operator began.

A new version of the operator may build other pods: another image, another probe. None of that may replace a pod in a
rush. So a workload says in two annotations what its template was made from, and `kept` tells a change of the event,
which takes effect, from one of the operator's version, which waits.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from intake_operator import names
from intake_operator.model.observed import Manifest

# The API server refuses another value in a StatefulSet or a Deployment that exists.
IMMUTABLE: Final = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")


def stamped(manifest: Manifest, settings: Mapping[str, Any]) -> Manifest:
    """The workload with both annotations; `settings` is what the event decides about its pods."""
    meta, template = manifest["metadata"], manifest["spec"]["template"]
    stamps = {names.SETTINGS_ANNOTATION: _digest(settings), names.TEMPLATE_ANNOTATION: _digest(template)}
    return manifest | {"metadata": meta | {"annotations": _annotations(manifest) | stamps}}


def fitting(wanted: Manifest, existing: Manifest | None) -> Manifest:
    """`wanted`, with what cannot change any more as it is in the one that exists."""
    if existing is None:
        return wanted
    fixed = {name: existing["spec"][name] for name in IMMUTABLE if name in existing["spec"]}
    return wanted | {"spec": wanted["spec"] | fixed}


def kept(wanted: Manifest, existing: Manifest | None) -> Manifest:
    """`wanted`, with the pod template that exists unless the event has changed.

    A template that this version would build as well is repaired where it was changed by hand. One of another version
    stays as it is. One without annotations was built before there were any: it stays, unless a Secret has changed.
    """
    if existing is None:
        return wanted
    before, now = _annotations(existing), _annotations(wanted)
    same_version = before.get(names.TEMPLATE_ANNOTATION) == now[names.TEMPLATE_ANNOTATION]
    if same_version or _event_changed(wanted, existing):
        return wanted
    stamps = {name: value for name, value in now.items() if name != names.TEMPLATE_ANNOTATION}
    if names.TEMPLATE_ANNOTATION in before:
        stamps[names.TEMPLATE_ANNOTATION] = before[names.TEMPLATE_ANNOTATION]
    template = existing["spec"]["template"]
    return wanted | {
        "metadata": wanted["metadata"] | {"annotations": stamps},
        "spec": wanted["spec"] | {"template": template},
    }


def _event_changed(wanted: Manifest, existing: Manifest) -> bool:
    before = _annotations(existing).get(names.SETTINGS_ANNOTATION)
    if before is not None:
        return bool(before != _annotations(wanted)[names.SETTINGS_ANNOTATION])
    return _secrets(existing) != _secrets(wanted)


def _secrets(manifest: Manifest) -> str | None:
    annotations = manifest["spec"]["template"]["metadata"].get("annotations") or {}
    return annotations.get(names.INPUTS_ANNOTATION)


def _annotations(manifest: Manifest) -> dict[str, str]:
    return manifest["metadata"].get("annotations") or {}


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
