"""What a pass has to look at, from what it has seen so far. `observe` asks these questions in the order of this file.

Looking costs requests, connections and reads of whole tables. So nothing is looked at that no decision needs.
"""

from datetime import datetime

from intake_operator import names
from intake_operator.children.database import is_being_deleted
from intake_operator.decide import memory
from intake_operator.decide.stage import Stage, abandoned, stage_of, was_claimable
from intake_operator.model import pods
from intake_operator.model.observed import Event, Observed


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
