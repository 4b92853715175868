"""Reads an IntakeEvent as the API server has it."""

from datetime import datetime

from pydantic import ValidationError

from intake_operator.model.observed import Event, Manifest
from intake_operator.model.spec import IntakeEventSpec


def parse(body: Manifest, namespace: Manifest | None = None) -> Event:
    """The event; `namespace` tells whether that is being deleted. A spec that is not valid becomes `spec_error`."""
    meta, raw = body["metadata"], body.get("spec") or {}
    try:
        spec, spec_error = IntakeEventSpec.model_validate(raw), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        spec, spec_error = None, f"spec.{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
    return Event(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        pool=str(raw.get("pool", "")),
        generation=meta["generation"],
        created_at=datetime.fromisoformat(meta["creationTimestamp"]),
        deleted_at=_moment(meta.get("deletionTimestamp")),
        finalizers=tuple(meta.get("finalizers") or ()),
        annotations=meta.get("annotations") or {},
        spec=spec,
        spec_error=spec_error,
        status=body.get("status") or {},
        namespace_deleted_at=_moment((namespace or {"metadata": {}})["metadata"].get("deletionTimestamp")),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
