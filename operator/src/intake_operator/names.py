"""Every name that others may come to rely on: API group, labels, annotations, finalizer, field managers, children."""

from typing import Final

GROUP: Final = "intake-engine.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "IntakeEvent"
PLURAL: Final = "intakeevents"

EVENT_LABEL: Final = f"{GROUP}/event"
# With EVENT_LABEL it says whose child an object is: an owner reference does not, because a foreground or orphan
# deletion of the event takes it away. A name can be used again, a uid cannot.
EVENT_UID_LABEL: Final = f"{GROUP}/event-uid"
# On every child and pod of an event whose claims are not all accounted for; the value names the operator that may
# remove them. The chart's ValidatingAdmissionPolicy refuses others.
GUARD_LABEL: Final = f"{GROUP}/guarded-by"
FINALIZER: Final = f"{GROUP}/drain"

# On DB1's StatefulSet and volume; the value is the identity of the database cluster (Postgres' system identifier). A
# child that carries this mark belongs to a database whose claims may have been acknowledged: from then on only the
# drain's proof, or the abandon annotation, lets the operator remove it.
CLAIMABLE_ANNOTATION: Final = f"{GROUP}/claimable"
# Value: the event's own name. The only way past a drain that cannot be proven.
ABANDON_ANNOTATION: Final = f"{GROUP}/abandon"
# Value: the event's own name. After the loss of DB1's volume: rebuild the sale from what the ledger has.
RECOVER_ANNOTATION: Final = f"{GROUP}/recover"
# Value: the event's own name. Open the sale although it is not known whether the pool was sold before.
POOL_UNCHECKED_ANNOTATION: Final = f"{GROUP}/pool-unchecked"
# Changes with the Secrets that a pod mounts, so that mending a Secret restarts the pods that could not start without
# it.
INPUTS_ANNOTATION: Final = f"{GROUP}/inputs"
# On the bridges' Deployment: until then none of them is taken away.
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
    """The Service through which everyone speaks to DB1."""
    return f"{event}-rw"


def superuser_secret(event: str) -> str:
    """The Secret with the owner's password; only the operator and DB1 itself read it."""
    return f"{event}-superuser"


def claimer_secret(event: str) -> str:
    """The Secret that web back ends read."""
    return f"{event}-app"


def bridge_secret(event: str) -> str:
    """The Secret through which the bridge reaches DB1."""
    return f"{event}-bridge"


def bridge(event: str) -> str:
    """The bridge's Deployment."""
    return f"{event}-bridge"


def report(event: str) -> str:
    """The ConfigMap that outlives the database."""
    return f"{event}-report"
