"""Whether the ledger of an event can be used: it answers, and it has the function that commits."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import psycopg
from intake_shared.connections import bounded
from intake_shared.redaction import one_line

from intake_operator.addresses import Address
from intake_operator.ledger.connection import connect
from intake_operator.ledger.functions import AmbiguousFunctionError, find_function, offers, unusable, void_function
from intake_operator.model.observed import LedgerState
from intake_operator.reasons import Problem
from intake_operator.remembered import Remembered

# The ledger is a database that others work on, too; a person who corrects something wants to see it soon.
WHILE_GOOD: Final = timedelta(seconds=60)
WHILE_BAD: Final = timedelta(seconds=3)
# Seconds of one check, which the pass over the event waits for.
CHECK_TIMEOUT: Final = 10.0


class LedgerChecks:
    """Checks the ledgers of events, seldom. `clock` and `timeout` are in seconds."""

    def __init__(self, clock: Callable[[], float], timeout: float = CHECK_TIMEOUT) -> None:
        self._timeout = timeout
        self._states: Remembered[tuple[Address, str], LedgerState] = Remembered(clock)

    async def check(self, uid: str, ledger: Address, function: str) -> LedgerState:
        """Whether the ledger answers and has the function. A changed address or function is checked at once."""
        if known := self._states.fresh(uid, (ledger, function)):
            return known
        state = await self._check(ledger, function)
        return self._states.keep(uid, (ledger, function), state, WHILE_BAD if state.problem else WHILE_GOOD)

    def forget(self, uid: str) -> None:
        """Drop what is known about the ledger of an event that is gone."""
        self._states.forget(uid)

    async def _check(self, ledger: Address, function: str) -> LedgerState:
        try:
            ledger.qualified()
        except psycopg.Error as error:
            return LedgerState(Problem.LEDGER_UNREACHABLE, one_line(error))
        try:
            async with bounded(self._timeout), connect(ledger) as connection:
                one = await find_function(connection, function)
                many = await find_function(connection, f"{function}s")
                await void_function(connection, function)
                for name in ("ledger_proof", "ledger_claims"):
                    await offers(connection, name)
        except AmbiguousFunctionError as error:
            return LedgerState(
                Problem.LEDGER_FUNCTION_AMBIGUOUS, f"{error}. Drop or rename the others, or name a schema."
            )
        except (psycopg.Error, OSError) as error:
            return LedgerState(
                Problem.LEDGER_UNREACHABLE,
                f"the ledger cannot be reached: {one_line(error)}. Claims wait in the queue; correct the Secret or the "
                "database.",
            )
        if one is None and not (many and many.set_based):
            return LedgerState(
                Problem.LEDGER_FUNCTION_MISSING,
                f"the ledger has no function {function}(jsonb). Create it (sql/ledger is the reference), or correct "
                "spec.commitTarget.postgres.function.",
            )
        if wrong := unusable(one, many):
            return LedgerState(
                Problem.LEDGER_FUNCTION_MISSING,
                f"the ledger has no function that bridges can call: {wrong}. Correct it as docs/ledger.md says.",
            )
        return LedgerState()
