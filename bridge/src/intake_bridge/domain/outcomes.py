"""What an answer of a webhook or a ledger means: every rule as a row of a table, in this one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from intake_shared.redaction import redacted
from intake_shared.sqlstates import QUERY_CANCELED, Subject, subject


class Result(StrEnum):
    """What becomes of the claim."""

    APPROVED = "approved"
    DECLINED = "declined"
    COMMITTED = "committed"
    VOIDED = "voided"
    DEAD = "dead"
    RETRY = "retry"


class Blame(StrEnum):
    """Whose fault it was, for the breaker: the claim's (the target is well), perhaps the target's, the target's."""

    CLAIM = "claim"
    SUSPECT = "suspect"
    TARGET = "target"


class Transport(StrEnum):
    """How a call can fail without an answer."""

    UNREACHABLE = "unreachable"  # nothing was sent
    TIMEOUT = "timeout"
    BROKEN = "broken"  # the connection ended in the middle of it
    TOO_LARGE = "too large"


# `kind` of a verdict that the bridge has reached by itself: nobody was asked, so it says nothing about the target.
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of a table, and then one answer for one claim."""

    result: Result
    blame: Blame = Blame.CLAIM
    # Only a counted failure brings a claim nearer to the dead letters.
    counted: bool = False
    # The target asks everybody to wait, not only this claim.
    holds: bool = False
    # The call may still be going on over there: we have stopped waiting for its end.
    lingers: bool = False
    # Others were answered as they should be while this claim was not, time after time (`singled_out.py`).
    alone: bool = False
    # Should be impossible; someone has to look.
    page: bool = False
    # The SQLSTATE or the bare status that said it; nothing where it was a word of the contract.
    kind: str | None = None
    reason: str | None = None
    retry_after: float | None = None
    # When it came, by the worker's clock: a target may break in the middle of a batch.
    at: float = field(default=0.0, compare=False)


_APPROVED = Outcome(Result.APPROVED)
_DECLINED = Outcome(Result.DECLINED)
_COMMITTED = Outcome(Result.COMMITTED)
_VOIDED = Outcome(Result.VOIDED)
_DEAD = Outcome(Result.DEAD)
_CONFLICT = Outcome(Result.DEAD, page=True)
# Nothing is known about the effect: the same key again, counted.
_UNKNOWN = Outcome(Result.RETRY, Blame.SUSPECT, counted=True)
# Configuration, not the claim: no claim may pay for a wrong URL or token. Uncounted, and therefore told: the breaker is
# open, and its error is the event's condition. Where others are answered meanwhile, `singled_out.py` makes it count.
_MISCONFIGURED = Outcome(Result.RETRY, Blame.TARGET)
# Another call with this key has not ended over there: the same key again. Counted from the first, so that one that
# never ends is a dead letter after maxRetries back-offs (two minutes and a half on average, by default). Not uncounted
# for some minutes first: a target that forgets to free a lock would hold up the drain by as much for each claim, and a
# dead letter loses nothing. It keeps its slot and its state, `committing` too; a replay asks again with the same key.
_IN_PROGRESS = Outcome(Result.RETRY, counted=True)
# Uncounted, since rate limits hit whoever comes: told where nothing else is heard for a while (`Breaker.trouble`).
_SLOW_DOWN = Outcome(Result.RETRY, holds=True)

# By the word in the body of a 2xx, and of a refusal that carries one. As they are written here: a word in other letters
# was not meant for us.
DECISIONS = {"approved": _APPROVED, "declined": _DECLINED}
COMMIT_WORDS = {
    "committed": _COMMITTED,
    "duplicate": _COMMITTED,
    # A webhook cannot be fenced: after `committing` only COMMITTED or a dead letter, whatever it says later.
    "voided": _DEAD,
    "conflict": _CONFLICT,
}
LEDGER_WORDS = {"committed": _COMMITTED, "duplicate": _COMMITTED, "voided": _VOIDED, "conflict": _CONFLICT}
# `committed`: too late, the sale stands. The ledger is the judge.
VOID_WORDS = {"voided": _VOIDED, "committed": _COMMITTED, "conflict": _CONFLICT}

# The statuses that both webhooks share.
_SHARED = {
    400: _UNKNOWN,
    401: _MISCONFIGURED,
    403: _MISCONFIGURED,  # a firewall says this too: without a word in the body it declines nobody
    404: _MISCONFIGURED,
    405: _MISCONFIGURED,
    408: _UNKNOWN,
    409: _IN_PROGRESS,
    415: _MISCONFIGURED,
    425: _IN_PROGRESS,
    429: _SLOW_DOWN,
}
_FAMILIES = {2: _MISCONFIGURED, 3: _MISCONFIGURED, 4: _UNKNOWN, 5: _UNKNOWN}
VALIDATE_STATUS = _SHARED | {402: _DECLINED, 410: _DECLINED, 422: _DECLINED}
COMMIT_STATUS = _SHARED | {402: _DEAD, 410: _DEAD, 422: _DEAD}
# One status for a whole batch declines nobody: it speaks of the batch.
BATCH_STATUS = _SHARED
# In these a word in the body says what kind of refusal it is; a word of success contradicts them and is not believed.
_SPEAKING = frozenset({402, 403, 409, 410, 422})
_SUCCESSES = frozenset({Result.APPROVED, Result.COMMITTED})
# But for this: many services answer a repeat with 409 and what the first call led to. The effect is there. An approval
# is no effect: what conflicts with it is not known, and it is asked again.
_REPEATED = (409, Result.COMMITTED)

TRANSPORT = {
    Transport.UNREACHABLE: _MISCONFIGURED,
    Transport.TIMEOUT: replace(_UNKNOWN, lingers=True),
    Transport.BROKEN: replace(_UNKNOWN, lingers=True),
    Transport.TOO_LARGE: _MISCONFIGURED,
}

# A failed ledger statement, by what its SQLSTATE speaks of.
STATEMENTS = {
    Subject.CLAIM: Outcome(Result.RETRY, counted=True),
    Subject.LOCK: Outcome(Result.RETRY, Blame.SUSPECT),
    Subject.LEDGER: _MISCONFIGURED,
}


def of_status(status: int, word: object, words: Mapping[str, Outcome], statuses: Mapping[int, Outcome]) -> Outcome:
    """The outcome of an HTTP answer: the word if one may speak, else the status, else its family."""
    known = words.get(word) if isinstance(word, str) else None
    good = 200 <= status < 300
    speaks = known is not None and status in _SPEAKING
    if known is not None and (good or (status, known.result) == _REPEATED):
        return known
    if known is not None and speaks and known.result not in _SUCCESSES:
        return known
    answer = f"answers {status} with {redacted(word[:100])!r}" if isinstance(word, str) else f"answers {status}"
    if good:
        said = answer if isinstance(word, str) else f"{answer} without a decision"
        return replace(_MISCONFIGURED, reason=f"{said}, expected one of {', '.join(words)}")
    if speaks:
        return replace(_UNKNOWN, reason=f"{answer}, which contradict each other")
    row = statuses.get(status) or _FAMILIES.get(status // 100, _MISCONFIGURED)
    return replace(row, reason=answer, kind=str(status))


def of_transport(kind: Transport, error: str) -> Outcome:
    """The outcome of a call that got no answer."""
    return replace(TRANSPORT[kind], reason=error)


def of_sqlstate(sqlstate: str | None, error: str) -> Outcome:
    """The outcome of a failed ledger statement; no SQLSTATE at all is a lost connection."""
    # Of these two it is unknown whether the statement has ended in the ledger.
    lingers = sqlstate in {None, QUERY_CANCELED}
    reason = f"{error} (SQLSTATE {sqlstate})" if sqlstate else error
    return replace(STATEMENTS[subject(sqlstate)], reason=reason, kind=sqlstate, lingers=lingers)


def of_word(word: object, words: Mapping[str, Outcome]) -> Outcome:
    """The outcome that a ledger function returned for one claim."""
    if isinstance(word, str) and word in words:
        return words[word]
    said = word[:100] if isinstance(word, str) else word
    return replace(_MISCONFIGURED, reason=f"returns {said!r}, expected one of {', '.join(words)}")


def silent(who: str) -> Outcome:
    """The answer had no line for this claim."""
    return replace(_UNKNOWN, reason=f"{who} left this claim out of its answer")
