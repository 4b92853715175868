"""The CRD is hand-written and the model mirrors it: the same fields, the same defaults, the same obligations."""

from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from intake_operator.model.spec import IntakeEventSpec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

CRD = Path(__file__).resolve().parents[2] / "crds" / "intakeevents.yaml"


def schema_of_spec() -> dict[str, Any]:
    """The OpenAPI schema of `spec`."""
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    spec: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


def model_within(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, optional or not."""
    annotation = field.annotation
    options = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def differences(model: type[BaseModel], schema: dict[str, Any], path: str) -> list[str]:
    """Every way in which a model and its schema disagree."""
    found = []
    fields = {str(field.alias): field for field in model.model_fields.values()}
    properties = schema.get("properties", {})
    if fields.keys() != properties.keys():
        found.append(f"{path}: fields {sorted(fields.keys() ^ properties.keys())} are in one only")
    required = {name for name, field in fields.items() if field.is_required()}
    if required != set(schema.get("required", ())):
        found.append(f"{path}: required {sorted(required ^ set(schema.get('required', ())))} in one only")
    for name in fields.keys() & properties.keys():
        field, told = fields[name], properties[name]
        inner = model_within(field)
        if inner is not None:
            found += differences(inner, told, f"{path}.{name}")
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            if default not in (told.get("default"), {}) and not (default is None and "default" not in told):
                found.append(f"{path}.{name}: default {default!r} here, {told.get('default')!r} in the CRD")
    return found


def test_the_model_and_the_crd_agree() -> None:
    assert differences(IntakeEventSpec, schema_of_spec(), "spec") == []
