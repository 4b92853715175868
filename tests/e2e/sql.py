"""SQL in the two databases of an event, as their superuser; rows are lines, fields are separated by `|`."""

import json

from tests.e2e.kube import Kube, Object
from tests.e2e.services import LEDGER_DATABASE, LEDGER_POD


def in_database(kube: Kube, event: str, script: str) -> str:
    """Run SQL in an event's DB1."""
    return kube.psql(f"{event}-db-0", "intake", script)


def in_ledger(kube: Kube, script: str, database: str = LEDGER_DATABASE) -> str:
    """Run SQL in the example ledger, or in another database of the same server."""
    return kube.psql(LEDGER_POD, database, script)


def claim(kube: Kube, event: str, pool: str, claims: int, prefix: str = "buyer") -> list[Object]:
    """Claim once for each of so many users, and return the answers."""
    wanted = f"SELECT '{prefix}-' || g FROM generate_series(1, {claims}) g"
    script = (
        f"SELECT jsonb_build_object('user_id', u, 'request_id', u, 'outcome', c.outcome, 'claim_id', c.claim_id,"
        f" 'seats', jsonb_build_array(jsonb_build_object('slot_no', c.slot_no, 'resource_id', c.resource_id)))"
        f" FROM (SELECT array_agg(w.u) AS users FROM ({wanted}) w (u)) a"
        f" CROSS JOIN LATERAL intake.claim_batch('{pool}', a.users, a.users) c"
        f" CROSS JOIN LATERAL (SELECT a.users[c.n] AS u) n"
    )
    return [json.loads(line) for line in in_database(kube, event, script).splitlines()]
