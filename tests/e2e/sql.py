"""SQL in the two databases of an event, as their superuser; rows are lines, fields are separated by `|`."""

from tests.e2e.kube import Kube
from tests.e2e.services import LEDGER_DATABASE, LEDGER_POD


def in_database(kube: Kube, event: str, script: str) -> str:
    """Run SQL in an event's DB1."""
    return kube.psql(f"{event}-db-0", "intake", script)


def in_ledger(kube: Kube, script: str, database: str = LEDGER_DATABASE) -> str:
    """Run SQL in the example ledger, or in another database of the same server."""
    return kube.psql(LEDGER_POD, database, script)
