"""How DB1's connections are shared: claimers may have what bridges, operator and people leave."""

from typing import Final

from intake_operator.model.observed import Connections
from intake_operator.model.spec import IntakeEventSpec

# Connections of one bridge: seven in its pool and one as housekeeper, and a quarter more, because a Deployment starts a
# quarter more bridges while it replaces them.
BRIDGE: Final = 10
# The operator (for passes, for a copy or a proof, for a comparison), its admin API, people with psql, one bridge more
# for the rounding of that quarter, and claimers that are being refused: each has a connection until its refusal.
OTHERS: Final = 17
# With fewer claimers a sale is useless; below that, bridges get less than they may want.
LEAST: Final = 20


def for_others(spec: IntakeEventSpec) -> int:
    """Connections that are not for claimers."""
    return BRIDGE * spec.bridge.max_replicas + OTHERS


def claimer_limit(known: Connections, others: int) -> int:
    """Connections that claimers may have, where `others` are wanted for the others."""
    return max(known.common - others, min(LEAST, known.common // 2))


def needed(known: Connections, spec: IntakeEventSpec) -> int:
    """The smallest max_connections that is enough for all of them."""
    return known.most - known.common + for_others(spec) + LEAST
