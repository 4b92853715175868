"""What an answer of a webhook or a ledger means: every rule is a row of a table in this file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

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
    """Whose fault a failure is: the claim's (the dependency works), perhaps the dependency's, or the dependency's."""

    CLAIM = "claim"
    SUSPECT = "suspect"
    DEPENDENCY = "dependency"


class Transport(StrEnum):
    """How a call can fail without an answer."""

    UNREACHABLE = "unreachable"  # nothing was sent
    TIMEOUT = "timeout"
    BROKEN = "broken"  # the connection ended in the middle of it
    TOO_LARGE = "too large"


# `kind` of an outcome that the bridge has decided without a call: it says nothing about the dependency.
DECIDED_BY_BRIDGE = "decided by the bridge"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of a table below; with reason and moment, the answer for one claim."""

    result: Result
    blame: Blame = Blame.CLAIM
    # Only a counted failure brings a claim nearer to the dead letters.
    counted: bool = False
    # The dependency asks for a pause of all calls, not only of those for this claim.
    pauses_dependency: bool = False
    # We have stopped waiting, and the dependency may still work on the call.
    may_still_run: bool = False
    # Other claims were answered as they should be while this one was not, time after time (`claim_specific.py`).
    claim_specific: bool = False
    # Should be impossible: an administrator has to look.
    needs_human: bool = False
    # The SQLSTATE or the bare status of the answer; None where the answer was a word of the contract.
    kind: str | None = None
    # Of what a dependency says only what `anonymous.told` lets through.
    reason: str | None = None
    retry_after: float | None = None
    # When the answer came, in seconds of the worker's monotonic clock: a dependency may break in the middle of a batch.
    at: float = field(default=0.0, compare=False)


_APPROVED = Outcome(Result.APPROVED)
_DECLINED = Outcome(Result.DECLINED)
_COMMITTED = Outcome(Result.COMMITTED)
_VOIDED = Outcome(Result.VOIDED)
_DEAD = Outcome(Result.DEAD)
_CONFLICT = Outcome(Result.DEAD, needs_human=True)
# Nothing is known about the effect: the same key again, counted.
_UNKNOWN = Outcome(Result.RETRY, Blame.SUSPECT, counted=True)
# The configuration is wrong, not the claim: no failure may count for a wrong URL or token. The breaker opens, and its
# error is the event's condition. Where other claims are answered meanwhile, `claim_specific.py` makes it count.
_MISCONFIGURED = Outcome(Result.RETRY, Blame.DEPENDENCY)
# Another call with this key has not ended yet at the dependency: the same key again. Counted from the first, so that a
# call that never ends is a dead letter after maxRetries back-offs (by default two minutes and a half on average). It is
# not excused for some minutes first: a dependency that forgets to free a lock would delay the drain by as much for each
# claim, and a dead letter loses nothing. It keeps its slots and its state, and a replay asks again with the same key.
_IN_PROGRESS = Outcome(Result.RETRY, counted=True)
# Not counted, because a rate limit hits any claim. Reported where nothing else is answered for a while
# (`Breaker.message`).
_SLOW_DOWN = Outcome(Result.RETRY, pauses_dependency=True)

# By the word in the body of a 2xx, and of a refusal that carries one. Case matters: `COMMITTED` is another word.
DECISIONS = {"approved": _APPROVED, "declined": _DECLINED}
COMMIT_WORDS = {
    "committed": _COMMITTED,
    "duplicate": _COMMITTED,
    # A webhook cannot be fenced: after `committing` a claim is committed or a dead letter, whatever the webhook says.
    "voided": _DEAD,
    "conflict": _CONFLICT,
}
LEDGER_WORDS = {"committed": _COMMITTED, "duplicate": _COMMITTED, "voided": _VOIDED, "conflict": _CONFLICT}
# `committed`: too late, the ledger has sold it, and the ledger decides.
VOID_WORDS = {"voided": _VOIDED, "committed": _COMMITTED, "conflict": _CONFLICT}

# The statuses that both webhooks share.
_SHARED = {
    400: _UNKNOWN,
    401: _MISCONFIGURED,
    403: _MISCONFIGURED,  # a firewall answers this, too: without a word in the body it declines no claim
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
# One status for a whole batch declines no claim: it is about the batch.
BATCH_STATUS = _SHARED
# With these a word in the body says what kind of refusal it is. A word of success contradicts them and is not believed.
_WITH_WORD = frozenset({402, 403, 409, 410, 422})
_SUCCESSES = frozenset({Result.APPROVED, Result.COMMITTED})
# The exception: many services answer a repeat with 409 and the outcome of the first call. The effect is there. An
# approval is no effect: what conflicts with it is not known, and the validator is asked again.
_REPEATED = (409, Result.COMMITTED)

TRANSPORT = {
    Transport.UNREACHABLE: _MISCONFIGURED,
    Transport.TIMEOUT: replace(_UNKNOWN, may_still_run=True),
    Transport.BROKEN: replace(_UNKNOWN, may_still_run=True),
    Transport.TOO_LARGE: _MISCONFIGURED,
}

# A failed ledger statement, by what its SQLSTATE speaks of.
STATEMENTS = {
    Subject.CLAIM: Outcome(Result.RETRY, counted=True),
    Subject.LOCK: Outcome(Result.RETRY, Blame.SUSPECT),
    Subject.LEDGER: _MISCONFIGURED,
}


def of_status(status: int, word: object, words: Mapping[str, Outcome], statuses: Mapping[int, Outcome]) -> Outcome:
    """The outcome of an HTTP answer: by its word if that counts with this status, else by the status or its family."""
    known = words.get(word) if isinstance(word, str) else None
    good = 200 <= status < 300
    has_word = known is not None and status in _WITH_WORD
    if known is not None and (good or (status, known.result) == _REPEATED):
        return known
    if known is not None and has_word and known.result not in _SUCCESSES:
        return known
    answer = f"answers {status} with {_quoted(word)}" if isinstance(word, str) else f"answers {status}"
    if good:
        got = answer if isinstance(word, str) else f"{answer} without a decision"
        return replace(_MISCONFIGURED, reason=f"{got}, expected one of {', '.join(words)}")
    if has_word:
        return replace(_UNKNOWN, reason=f"{answer}, which contradict each other")
    row = statuses.get(status) or _FAMILIES.get(status // 100, _MISCONFIGURED)
    return replace(row, reason=answer, kind=str(status))


def of_transport(kind: Transport, error: str) -> Outcome:
    """The outcome of a call that got no answer."""
    return replace(TRANSPORT[kind], reason=error)


def of_sqlstate(sqlstate: str | None, error: str) -> Outcome:
    """The outcome of a failed ledger statement; no SQLSTATE at all is a lost connection."""
    # Of these two it is unknown whether the statement has ended in the ledger.
    may_still_run = sqlstate in {None, QUERY_CANCELED}
    reason = f"{error} (SQLSTATE {sqlstate})" if sqlstate else error
    return replace(STATEMENTS[subject(sqlstate)], reason=reason, kind=sqlstate, may_still_run=may_still_run)


def of_word(word: object, words: Mapping[str, Outcome]) -> Outcome:
    """The outcome for one claim, by the word that a function of the ledger returned."""
    if isinstance(word, str) and word in words:
        return words[word]
    got = _quoted(word) if isinstance(word, str) else "no outcome"
    return replace(_MISCONFIGURED, reason=f"returns {got}, expected one of {', '.join(words)}")


def _quoted(word: str) -> str:
    """A word of theirs. A long one is not cut: a part of a payload would no longer be found (`anonymous.py`)."""
    return f"'{word}'" if len(word) <= 100 else f"a text of {len(word)} characters"


def left_out(by: str) -> Outcome:
    """The answer to a batch had no outcome for this claim. `by` names the dependency."""
    return replace(_UNKNOWN, reason=f"{by} left this claim out of its answer")
