"""Every name that users and other programs may rely on: API group, labels, annotations, finalizer, children."""

from typing import Final

GROUP: Final = "intake-engine.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "IntakeEvent"
PLURAL: Final = "intakeevents"

COMPONENT_LABEL: Final = "app.kubernetes.io/component"
EVENT_LABEL: Final = f"{GROUP}/event"
# With EVENT_LABEL it says whose child an object is. An owner reference does not: a foreground or orphan deletion of the
# event removes it. A name can be used again, a uid cannot.
EVENT_UID_LABEL: Final = f"{GROUP}/event-uid"
# On every child and pod of an event with unsettled claims; the value names the operator that may delete them. The
# chart's ValidatingAdmissionPolicy refuses others.
GUARD_LABEL: Final = f"{GROUP}/guarded-by"
FINALIZER: Final = f"{GROUP}/drain"

# On DB1's StatefulSet and volume claim; the value is Postgres' system identifier. Claims may have been acknowledged
# there: only the drain's proof, or the abandon annotation, lets the operator delete a child with it.
CLAIMABLE_ANNOTATION: Final = f"{GROUP}/claimable"
# Value: the event's own name. Gives up a drain that cannot be proven.
ABANDON_ANNOTATION: Final = f"{GROUP}/abandon"
# Value: the event's own name. After the loss of DB1's volume: rebuild the sale from the ledger.
RECOVER_ANNOTATION: Final = f"{GROUP}/recover"
# Value: the event's own name. Open the sale although it is not known whether the pool was sold before.
POOL_UNCHECKED_ANNOTATION: Final = f"{GROUP}/pool-unchecked"
# Value: the event's own name. Give a running sale what a new version of the operator brings, as far as it can have it.
UPGRADE_ANNOTATION: Final = f"{GROUP}/upgrade"
# On StatefulSet and Deployment: what of the event, and what of the operator's version, is in the pod template.
SETTINGS_ANNOTATION: Final = f"{GROUP}/settings"
TEMPLATE_ANNOTATION: Final = f"{GROUP}/template"
# Changes with the Secrets that a pod mounts, so that a corrected Secret restarts the pods that could not start without
# it.
INPUTS_ANNOTATION: Final = f"{GROUP}/inputs"
# On the bridges' Deployment: until then no bridge is removed.
SCALE_IN_AFTER_ANNOTATION: Final = f"{GROUP}/scale-in-after"
VERIFIED_ANNOTATION: Final = f"{GROUP}/verified"

FIELD_MANAGER: Final = "intake-operator"
SCALER_FIELD_MANAGER: Final = "intake-operator-scaler"

DATABASE_NAME: Final = "intake"
SUPERUSER: Final = "postgres"
CLAIMER_ROLE: Final = "claimer"
BRIDGE_ROLE: Final = "bridge"


def database(event: str) -> str:
    """StatefulSet, headless Service, NetworkPolicy and PodDisruptionBudget of DB1."""
    return f"{event}-db"


def volume_claim(event: str) -> str:
    """The PersistentVolumeClaim that DB1's StatefulSet takes for its only pod."""
    return f"data-{database(event)}-0"


def service(event: str) -> str:
    """The Service of DB1 for all its clients."""
    return f"{event}-rw"


def superuser_secret(event: str) -> str:
    """The Secret with the superuser's password; only the operator and DB1 itself read it."""
    return f"{event}-superuser"


def claimer_secret(event: str) -> str:
    """The Secret that web back ends read."""
    return f"{event}-app"


def bridge_secret(event: str) -> str:
    """The Secret that the bridges read to reach DB1."""
    return f"{event}-bridge"


def bridge(event: str) -> str:
    """The bridges' Deployment."""
    return f"{event}-bridge"


def report(event: str) -> str:
    """The ConfigMap with the report, which outlives DB1."""
    return f"{event}-report"
