"""What is checked while an event waits: the condition PreflightPassed, what is wrong, and when to ask again."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from intake_operator.decide.stage import Stage, lead_time
from intake_operator.model.observed import Event, InventoryState, LedgerState, Manifest, PoolCheck
from intake_operator.model.preflight import Check, Preflight, failed, not_asked, noted, ok
from intake_operator.model.spec import IntakeEventSpec, Storage
from intake_operator.reasons import ConditionType, PoolReason, PreflightReason, Problem

WHILE_GOOD: Final = timedelta(hours=1)
# A person who corrects something sees it soon; what has failed for long is asked as seldom as an event is looked at.
SOON: Final = timedelta(seconds=15)
SELDOM: Final = timedelta(minutes=5)

DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
# What lies beyond is rather a slip of the pen.
FAR: Final = timedelta(days=366)
LONG: Final = timedelta(days=31)
# DB1 starts within seconds where the image is there, and a large inventory takes some more.
SHORT_LEAD: Final = timedelta(minutes=5)


def question(event: Event, fingerprints: Mapping[str, str]) -> object:
    """What the answers depend on, as far as a pass sees it: the event, and the Secrets that it names.

    All annotations count, so that a person can have everything asked again by any of them.
    """
    return event.generation, tuple(sorted(event.annotations.items())), tuple(sorted(fingerprints.items()))


def rest(known: Preflight | None) -> timedelta:
    """How long the answers count. What fails is asked again after as long as it has failed already.

    The first answers wake the event by themselves.
    """
    if known is None or known.failing_since is None:
        return WHILE_GOOD
    return min(SELDOM, max(SOON, known.at - known.failing_since))


def passed(event: Event, known: Preflight | None, stage: Stage) -> tuple[bool | None, str, str, int | None]:
    """Status, reason, message and generation of PreflightPassed. An answer stands, with its time, until the next."""
    if stage is Stage.WAIT and known is not None:
        reason = known.problems[0][0] if known.problems else PreflightReason.PASSED
        return not known.problems, reason, known.lines[:8000], known.generation
    if (before := _told(event)) is not None and before["status"] in {"True", "False"}:
        return before["status"] == "True", before["reason"], before["message"], before.get("observedGeneration")
    if stage is Stage.WAIT:
        return None, PreflightReason.RUNNING, "all that the sale needs is being checked", None
    return None, PreflightReason.NOT_CHECKED, "nothing was checked ahead, because the event did not wait", None


def problems(event: Event, known: Preflight | None, stage: Stage) -> Iterator[tuple[Problem, str]]:
    """What is wrong with an event that waits. After a restart the last answer stands until the checks have ended."""
    if stage is not Stage.WAIT:
        return
    if known is not None:
        yield from known.problems
    elif (before := _told(event)) is not None and before["status"] == "False":
        found = (c for c in event.status["conditions"] if c["type"] == ConditionType.DEGRADED)
        # Another version of the operator may have reasons that this one does not know.
        known_reasons = {before["reason"]} & {*Problem}
        yield from ((Problem(c["reason"]), c["message"]) for c in found if c["reason"] in known_reasons)


def _told(event: Event) -> Mapping[str, Any] | None:
    """PreflightPassed as the status has it."""
    conditions = event.status.get("conditions") or ()
    return next((c for c in conditions if c["type"] == ConditionType.PREFLIGHT_PASSED), None)


def of_ledger(state: LedgerState) -> Check:
    """The ledger answers, and has its functions."""
    return failed("ledger", state.problem, state.message) if state.problem else ok("ledger")


def of_secrets(states: Sequence[LedgerState]) -> Check:
    """Every Secret that the spec names is there, and can be used."""
    wrong = [(state.problem, state.message) for state in states if state.problem]
    return failed("secrets", wrong[0][0], " ".join(message for _, message in wrong)) if wrong else ok("secrets")


def of_inventory(state: InventoryState, size: int, read: int) -> Check:
    """There is a row for each of `size` slots, and those that were read are valid: `read` at most."""
    if state.problem:
        return failed("inventory", state.problem, state.message)
    return ok("inventory", f"the first {read} of {size} rows were read" if read < size else "")


def of_pool(found: PoolCheck) -> Check:
    """The pool was not sold before."""
    if found.blocks:
        problem = Problem.POOL_IN_USE if found.reason is PoolReason.IN_USE else Problem.POOL_USED_BEFORE
        return failed("pool", problem, found.message)
    return ok("pool") if found.reason is PoolReason.UNUSED else not_asked("pool", found.message)


def of_storage_class(volume: Storage, found: Sequence[Manifest]) -> Check:
    """The class of DB1's volume, out of those that were found: the one of its name, or all of them."""
    if name := volume.storage_class_name:
        if found:
            return ok("storageClass")
        wrong = (
            f"StorageClass {name} does not exist, so DB1 would get no volume and its pod would not start. Create it."
        )
        return failed("storageClass", Problem.PODS_NOT_STARTING, wrong)
    if any((each["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true" for each in found):
        return ok("storageClass")
    return noted(
        "storageClass",
        "no StorageClass is the default, so DB1 starts only if there is a PersistentVolume without a class; "
        "spec.database.storage.storageClassName names a class",
    )


def of_window(spec: IntakeEventSpec, now: datetime) -> Check:
    """What a person may not have meant. Only of an event that waits, so its window is ahead."""
    opens, closes = spec.window.opens_at, spec.window.closes_at
    lasts, ahead, kept = closes - opens, opens - now, timedelta(minutes=spec.teardown.keep_minutes)
    found = []
    if lasts < MINUTE:
        found.append(f"it is open for {lasts.total_seconds():g} seconds")
    if lasts > LONG:
        found.append(f"it is open for {lasts // DAY} days")
    if ahead > FAR:
        found.append(f"it opens in {ahead // DAY} days")
    if (lead := lead_time(spec)) < SHORT_LEAD:
        found.append(
            f"DB1 is made {lead // MINUTE} minutes before it opens: claims are answered not_ready until the slots are "
            "seeded"
        )
    if spec.checkout and kept < spec.checkout.longest:
        found.append(
            f"teardown.keepMinutes {spec.teardown.keep_minutes} is shorter than a hold: a buyer who confirms at the "
            "end may find no claim_status"
        )
    return noted("window", "; ".join(found)) if found else ok("window")
