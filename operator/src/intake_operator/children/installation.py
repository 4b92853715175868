"""What the operator's installation sets for every event."""

from dataclasses import dataclass, field
from typing import Final

from intake_operator.model.pod_settings import Defaults

# What nearly every cluster uses.
CLUSTER_DOMAIN: Final = "cluster.local"


@dataclass(frozen=True)
class BridgeImage:
    """The image of the bridges. It is released with the operator, so both have the same version."""

    name: str
    pull_policy: str
    traces_endpoint: str = ""
    """Where bridges send traces, by OTLP over HTTP; empty: they send none."""


@dataclass(frozen=True)
class Installation:
    """What the operator's installation sets for every event."""

    bridge: BridgeImage
    guard: str
    """Value of the guard label on the children of this operator; the chart's policy matches it."""
    defaults: Defaults = field(default_factory=Defaults)
    """Where pods run and what they carry, unless the event says otherwise."""
    fixed_ids: bool = True
    """Whether pods name their user and groups. Without, the cluster's admission sets them, as OpenShift's does."""
    namespace: str = ""
    """The operator's own; empty where it runs outside of the cluster."""
