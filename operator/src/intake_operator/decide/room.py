"""Who may have how many of DB1's connections: claimers what is left once all the others have enough."""

from typing import Final

from intake_operator.model.observed import Connections
from intake_operator.model.spec import IntakeEventSpec

# A bridge opens seven in its pool and one as housekeeper. A quarter more bridges run while a Deployment replaces them.
BRIDGE: Final = 10
# The operator, its admin API and people with psql, one bridge more for the rounding of that quarter, and claimers that
# are being refused: each has a connection until it is told so.
OTHERS: Final = 17
# With fewer a sale is no sale; then bridges have to do with less than they may want.
LEAST: Final = 20


def beside(spec: IntakeEventSpec) -> int:
    """Connections that are not for claimers."""
    return BRIDGE * spec.bridge.max_replicas + OTHERS


def limit(known: Connections, wanted: int) -> int:
    """Connections that claimers may have, where the others want so many."""
    return max(known.common - wanted, min(LEAST, known.common // 2))


def needed(known: Connections, spec: IntakeEventSpec) -> int:
    """The smallest max_connections that has room for everybody."""
    return known.most - known.common + beside(spec) + LEAST
