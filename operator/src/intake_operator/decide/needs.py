"""What a pass has to look at, from what it has seen so far. `observe` asks these questions in the order of this file.

Looking costs requests, connections and reads of whole tables. So nothing is looked at that no decision needs.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from intake_operator import names
from intake_operator.children.database import is_being_deleted
from intake_operator.decide import inputs as user_secrets
from intake_operator.decide import memory
from intake_operator.decide.stage import Stage, abandoned, stage_of, was_claimable
from intake_operator.decide.steps import (
    Delete,
    Plan,
    Recover,
    RemoveFinalizer,
    ReplaceDatabasePod,
    Seal,
    Seed,
    StopDatabase,
    Unguard,
)
from intake_operator.model import pods
from intake_operator.model.observed import Event, Observed
from intake_operator.reasons import ConditionType

# How long what was read of a Secret counts: soon again where something is wrong, and seldom long before the window.
WHILE_BAD: Final = timedelta(seconds=10)
WHILE_GOOD: Final = timedelta(minutes=1)
WHILE_FAR: Final = timedelta(minutes=10)

# What cannot be taken back, or what buyers cannot.
IRREVERSIBLE: Final = (Delete, Recover, RemoveFinalizer, ReplaceDatabasePod, Seal, StopDatabase, Unguard)


def secrets(event: Event) -> Sequence[str]:
    """The Secrets that a pass reads: the event's own, and those that its spec names."""
    own = (names.superuser_secret(event.name), names.claimer_secret(event.name), names.bridge_secret(event.name))
    if event.spec is None:
        return own
    table = event.spec.inventory.table if event.spec.inventory else None
    of_user = [*user_secrets.of_spec(event.spec), *(user_secrets.of_postgres(table) if table else ())]
    return [*own, *(needed.ref.name for needed in of_user)]


def secrets_last(event: Event, now: datetime) -> timedelta:
    """How long what was read of them counts: no watch tells of them, and each reading is a request."""
    far = event.spec is not None and now + WHILE_FAR < event.spec.window.opens_at
    conditions = event.status.get("conditions") or ()
    if any(c["type"] == ConditionType.DEGRADED and c["status"] == "True" for c in conditions):
        return WHILE_GOOD if far else WHILE_BAD
    return WHILE_FAR if far else WHILE_GOOD


def live(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether this pass reads from the API server, not from the store: it ends a sale, or a volume was lost."""
    return stage_of(event, observed, now) in {Stage.DRAIN, Stage.REMOVE} or memory.volume_lost(event, observed)


def live_before(plan: Plan, event: Event, observed: Observed) -> bool:
    """Whether this plan is made again from what the API server has: a step of it cannot be taken back.

    The first seed is such a step: from then on buyers have claims.
    """
    first = not was_claimable(event, observed)
    return any(isinstance(step, IRREVERSIBLE) or (first and isinstance(step, Seed)) for step in plan.steps)


def database(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether DB1 is asked for its state."""
    return stage_of(event, observed, now) in {Stage.SERVE, Stage.DRAIN, Stage.KEEP}


def preflight(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether all that the sale needs is checked ahead; then nothing below is looked at."""
    return stage_of(event, observed, now) is Stage.WAIT


def refusals(event: Event, observed: Observed) -> bool:
    """Whether Kubernetes is asked why DB1's StatefulSet has no pod."""
    workload = observed.children.get(("StatefulSet", names.database(event.name)))
    wanted = workload is not None and not is_being_deleted(workload) and workload["spec"].get("replicas", 1)
    return bool(wanted) and not pods.of_component(observed.pods, "database")


def audit(event: Event, observed: Observed) -> bool:
    """Whether DB1's audit is read: the report of an abandoned event has what people did by hand."""
    return abandoned(event) and observed.database.status is not None


def inputs(event: Event) -> bool:
    """Whether the user's Secrets and the ledger behind them are looked at; without them, nothing below is."""
    return event.spec is not None and not abandoned(event)


def inventory(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether the user's own rows are looked at."""
    if not inputs(event) or event.spec is None or event.spec.inventory is None:
        return False
    # A DB1 that was claimable has its rows: nothing is missing just because DB1 cannot be asked.
    answers = observed.database.status is not None or not was_claimable(event, observed)
    serving = stage_of(event, observed, now) is Stage.SERVE
    return answers and (serving or memory.volume_lost(event, observed))


def pool(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether the ledger and the other events are asked about the pool: until the first slot is seeded."""
    serving = stage_of(event, observed, now) is Stage.SERVE
    return inputs(event) and serving and not was_claimable(event, observed)


def proof(event: Event, observed: Observed, now: datetime) -> bool:
    """Whether the proof is made: DB1 is sealed, and no claim is held, queued or a dead letter."""
    database = observed.database
    unsettled = database.held or database.depth or database.dead_letters
    drained = database.sealed and database.ready and not unsettled
    return inputs(event) and drained and stage_of(event, observed, now) is Stage.DRAIN
