"""The chart's defaults for all events have the fields of the CRD, with the same bounds."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "intake-engine"
# What both languages say alike.
ALIKE = {
    *("type", "enum", "pattern", "required"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
}
# What only an event can say: these decide how much it gets, or belong to its data.
OF_THE_EVENT_ALONE = {
    "bridge": {"minReplicas", "maxReplicas", "backlogPerReplica"},
    "database": {"image", "storage", "ephemeral", "parameters", "allowedNamespaces"},
}


@pytest.mark.parametrize("component", ["database", "bridge"])
def test_the_chart_s_defaults_have_the_fields_of_the_crd(component: str) -> None:
    crd = yaml.safe_load((ROOT / "crds" / "intakeevents.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    of_the_crd = converted(spec["properties"][component])
    for name in OF_THE_EVENT_ALONE[component]:
        del of_the_crd["properties"][name]
    whole = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = whole["properties"]["defaults"]["properties"][component]
    assert expanded(defaults, whole["$defs"]) == of_the_crd


def test_the_chart_sets_no_default_that_the_operator_has_already() -> None:
    assert yaml.safe_load((CHART / "values.yaml").read_text())["defaults"] == {"database": {}, "bridge": {}}


def converted(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the CRD as JSON schema. An unknown field is refused; CEL has no counterpart."""
    found = {name: value for name, value in schema.items() if name in ALIKE}
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    if "properties" in schema:
        found["additionalProperties"] = False
        found["properties"] = {name: converted(field) for name, field in schema["properties"].items()}
    for name in ("additionalProperties", "items"):
        if name in schema:
            found[name] = converted(schema[name])
    return found


def expanded(schema: object, definitions: dict[str, Any]) -> object:
    """A JSON schema with its references replaced; without the names that the CRD refuses by CEL."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return expanded(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {name: expanded(value, definitions) for name, value in schema.items() if name != "propertyNames"}
