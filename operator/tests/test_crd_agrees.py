"""The CRD is hand-written and the model mirrors it: the same fields, the same defaults, the same obligations."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.reasons import Phase, Problem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

CRD = Path(__file__).resolve().parents[2] / "crds" / "intakeevents.yaml"


def schema_of_spec() -> dict[str, Any]:
    """The OpenAPI schema of `spec`."""
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    spec: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


def described(path: str) -> str:
    """The description of a field of the spec or the status, by its path."""
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path.split("."):
        schema = schema["properties"][name]
    return str(schema.get("description", ""))


def test_a_line_of_kubectl_shows_ready_with_its_reason_and_fits_on_a_screen() -> None:
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown[:3] == ["Phase", "Ready", "Reason"]
    widest = {"Phase": max(map(len, Phase)), "Reason": max(map(len, Problem)), "Closes": len("2026-12-01T20:00:00Z")}
    cells = [len("taylor-drop"), *(max(len(name), widest.get(name, 0)) for name in shown)]
    assert sum(cells) + 3 * (len(cells) - 1) < 150


def model_within(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, optional or not, or that the items of its list are."""
    annotation = field.annotation
    options = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    options = tuple(get_args(o)[0] if get_origin(o) is list else o for o in options)
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
            found += differences(inner, told.get("items", told), f"{path}.{name}")
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            if default not in (told.get("default"), {}) and not (default is None and "default" not in told):
                found.append(f"{path}.{name}: default {default!r} here, {told.get('default')!r} in the CRD")
    return found


def test_the_model_and_the_crd_agree() -> None:
    assert differences(IntakeEventSpec, schema_of_spec(), "spec") == []


@pytest.mark.parametrize(
    ("unit", "paths"),
    [
        ("slots", ["spec.inventorySize", "spec.claimsPerUser", "status.inventory", "status.report.inventory"]),
        ("claims", ["spec.batchSize", "spec.commitTarget.maxPerSecond", "spec.bridge.backlogPerReplica"]),
        ("claim", ["spec.maxRetries"]),
        ("claims", ["status.queue", "status.queue.depth", "status.queue.deadLetters", "status.recovery.committed"]),
        ("claims", [f"status.{name}" for name in ("held", "committed", "voided", "released", "expired")]),
        ("claims", ["status.claimsPerSecond", "status.commitsPerSecond"]),
        ("claims", [f"status.report.{name}" for name in ("claims", "committed", "expired", "held", "queued")]),
    ],
)
def test_kubectl_explain_says_what_is_counted(unit: str, paths: list[str]) -> None:
    for path in paths:
        assert re.search(rf"\b{unit}\b", described(path), re.IGNORECASE), path


def defaults_within(schema: dict[str, Any], path: str, *, atomic: bool = False) -> Iterator[str]:
    """The fields with a default inside a map or list that is applied as a whole."""
    if atomic and "default" in schema:
        yield path
    whole = "atomic" in {schema.get("x-kubernetes-map-type"), schema.get("x-kubernetes-list-type")}
    inner = [(f"{path}.{name}", field) for name, field in schema.get("properties", {}).items()]
    inner += [(f"{path}[]", schema[key]) for key in ("items", "additionalProperties") if key in schema]
    for name, field in inner:
        yield from defaults_within(field, name, atomic=atomic or whole)


def test_server_side_apply_finds_no_difference_that_is_a_default() -> None:
    # Argo CD compares what it would apply with what there is: such an event would be OutOfSync for ever.
    assert list(defaults_within(schema_of_spec(), "spec")) == []


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every event in examples/, with the name of its file."""
    for path in sorted((CRD.parents[1] / "examples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document["kind"] == "IntakeEvent":
                yield path.name, document


@pytest.mark.parametrize(("file", "event"), list(examples()))
def test_an_example_has_fields_of_the_crd_alone(file: str, event: dict[str, Any]) -> None:
    IntakeEventSpec.model_validate(event["spec"])
    assert list(unknown(event["spec"], schema_of_spec(), "spec")) == []


def unknown(value: object, schema: dict[str, Any], path: str) -> Iterator[str]:
    """The fields of a value that its schema does not have."""
    for name, inner in value.items() if isinstance(value, dict) and "properties" in schema else ():
        if name not in schema["properties"]:
            yield f"{path}.{name}"
        else:
            yield from unknown(inner, schema["properties"][name], f"{path}.{name}")


def test_no_default_is_below_what_is_replaced_as_a_whole() -> None:
    """Argo CD with ServerSideApply=true fills in no default: it would see a difference for ever."""
    assert list(replaced(schema_of_spec(), "spec")) != []
    assert [path for path in replaced(schema_of_spec(), "spec") if path.endswith(" has a default")] == []


def replaced(schema: dict[str, Any], path: str, *, whole: bool = False) -> Iterator[str]:
    """What is inside of maps and lists that a server-side apply replaces as a whole."""
    whole = whole or schema.get("x-kubernetes-map-type") == "atomic"
    for name, inner in schema.get("properties", {}).items():
        if whole:
            yield f"{path}.{name}" + (" has a default" if "default" in inner else "")
        yield from replaced(inner, f"{path}.{name}", whole=whole)
    if "items" in schema and schema.get("x-kubernetes-list-type") != "map":
        yield from replaced(schema["items"], f"{path}[]", whole=True)
