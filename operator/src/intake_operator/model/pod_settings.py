"""Where the pods of an event run and what they carry: the types of Kubernetes, as far as the CRD has them."""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# What the operator finds its pods by, and what it notes on them. The CRD and the chart refuse them in the same words.
OUR_LABELS: Final = ("intake-engine.io/", "app.kubernetes.io/")
OUR_ANNOTATIONS: Final = ("intake-engine.io/",)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class Toleration(_Model):
    """Lets a pod on a node with this taint."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Requirement(_Model):
    """What a label of a pod or a namespace must be."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] | None = None


class LabelSelector(_Model):
    """Selects pods or namespaces."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Requirement] | None = None


class NodeRequirement(_Model):
    """What a label or a field of a node must be."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: list[str] | None = None


class NodeSelectorTerm(_Model):
    """Requirements that a node must meet together."""

    match_expressions: list[NodeRequirement] | None = None
    match_fields: list[NodeRequirement] | None = None


class NodeSelector(_Model):
    """A node must meet one of the terms."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(min_length=1)]


class PreferredNodes(_Model):
    """Nodes that are better than others by this weight."""

    weight: Annotated[int, Field(ge=1, le=100)]
    preference: NodeSelectorTerm


class NodeAffinity(_Model):
    """Which nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodes] | None = None


class PodAffinityTerm(_Model):
    """Beside, or not beside, which pods, and what `beside` means."""

    topology_key: str
    label_selector: LabelSelector | None = None
    namespaces: list[str] | None = None
    namespace_selector: LabelSelector | None = None
    match_label_keys: list[str] | None = None
    mismatch_label_keys: list[str] | None = None


class PreferredPods(_Model):
    """A term that counts by this weight."""

    weight: Annotated[int, Field(ge=1, le=100)]
    pod_affinity_term: PodAffinityTerm


class PodAffinity(_Model):
    """Beside which pods; as anti-affinity, not beside which."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = None
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] | None = None


class Affinity(_Model):
    """Which nodes, beside which pods, and not beside which."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class TopologySpreadConstraint(_Model):
    """How evenly pods are spread over the values of a label of nodes."""

    max_skew: Annotated[int, Field(ge=1)]
    topology_key: str
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    label_selector: LabelSelector | None = None
    min_domains: Annotated[int, Field(ge=1)] | None = None
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    node_taints_policy: Literal["Honor", "Ignore"] | None = None
    match_label_keys: list[str] | None = None


class PullSecret(_Model):
    """A Secret in the event's namespace with the login of a registry."""

    name: str


class PodSettings(_Model):
    """What an event, or the chart for all events, says of a pod. None where it says nothing."""

    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    affinity: Affinity | None = None
    topology_spread_constraints: list[TopologySpreadConstraint] | None = None
    priority_class_name: str | None = None
    image_pull_secrets: list[PullSecret] | None = None
    pod_labels: dict[str, str] | None = None
    pod_annotations: dict[str, str] | None = None
    resources: dict[str, dict[str, str | int]] | None = None

    def over(self, defaults: "PodSettings") -> "PodSettings":
        """These settings, and the defaults of each field about which they say nothing. A field is taken whole."""
        said = {name: value for name in PodSettings.model_fields if (value := getattr(self, name)) is not None}
        return defaults.model_copy(update=said)

    def part(self, *names: str) -> dict[str, Any]:
        """These fields as a pod has them; without those that are empty."""
        whole = self.model_dump(by_alias=True, exclude_none=True, include=set(names))
        return {name: value for name, value in whole.items() if value}


class Defaults(_Model):
    """What the chart says for all events: its value `defaults`."""

    database: PodSettings = PodSettings()
    bridge: PodSettings = PodSettings()

    def problems(self) -> Iterator[str]:
        """What the CRD refuses in an event and the types do not, with the field. Nobody else would check it."""
        for component in ("database", "bridge"):
            yield from (f"{component}.{problem}" for problem in _problems(getattr(self, component)))


def _problems(given: PodSettings) -> Iterator[str]:
    for field, labels, ours in (
        ("podLabels", given.pod_labels, OUR_LABELS),
        ("podAnnotations", given.pod_annotations, OUR_ANNOTATIONS),
    ):
        for name in labels or {}:
            if name.startswith(ours):
                yield f"{field}: {name} is the operator's own"
    for number, toleration in enumerate(given.tolerations or ()):
        for problem in _of_toleration(toleration):
            yield f"tolerations[{number}]: {problem}"


def _of_toleration(given: Toleration) -> Iterator[str]:
    if not given.key and given.operator != "Exists":
        yield "operator must be Exists where key is left out"
    if given.operator == "Exists" and given.value:
        yield "value must be left out where operator is Exists"
    if given.toleration_seconds is not None and given.effect != "NoExecute":
        yield "tolerationSeconds needs the effect NoExecute"
