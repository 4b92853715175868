"""Broken bridges: one textual change each, in Python or SQL, and the case that must fail on it.

A change that does not apply any more is an error, so that this list stays true. This module imports nothing of the
bridge: a mutant is installed before the bridge is imported.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


@dataclass(frozen=True)
class Mutant:
    """A broken variant of one module of the bridge, or of one file of sql/intake."""

    where: str
    before: str
    after: str
    caught_by: str
    """The test function that must fail on it."""
    case: str = ""
    """The case, for a function that has many."""
    file: str = ""
    """The test's file in bridge/tests, for a rule that needs no processes: run by test_rule_mutants.py."""

    @property
    def is_sql(self) -> bool:
        """Whether it lives in DB1."""
        return self.where.endswith(".sql")

    def replaced(self, text: str) -> str:
        """The broken text."""
        if text.count(self.before) != 1:
            raise ValueError(f"{self.where}: the mutant's text occurs {text.count(self.before)} times, not once")
        return text.replace(self.before, self.after)

    def patch(self, name: str, text: str) -> str:
        """The SQL to install instead of `text`, for `install_intake`."""
        return self.replaced(text) if name == self.where else text


MATRIX = "test_after_any_interruption_every_claim_ends_once_and_as_it_must"
LATE = "test_a_message_committed_long_after_later_ones_were_sold_is_sold_with_the_next_batch"
ALL_ALIKE = "test_when_a_ledger_fails_for_every_claim_no_failure_counts"
SOME_BAD = "test_claims_that_failed_among_good_ones_end_when_no_other_claim_is_left"
DEADLY = "test_while_a_message_is_read_alone_its_bridge_has_nothing_else_in_hand"
_DUE = "        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND"
FLEET = "test_i10_holds_in_the_ledger_while_workers_join_and_die"
FROZEN = "test_i10_tokens_of_a_worker_that_was_frozen_are_not_used"
ANSWERS, SENT = "test_bridge_answers.py", "test_bridge_answers_sent.py"
COMMON_FAILURE = "test_bridge_common_failure.py"
OUTCOMES, BREAKER = "test_bridge_outcomes.py", "test_bridge_breaker.py"
LAST_MINUTE = "test_bridge_last_minute.py"
FATES = "test_every_answer_that_is_repeated_for_ever_ends_the_claim_or_is_reported"
CLAIM_SPECIFIC = "test_an_answer_that_one_claim_alone_gets_ends_it"

MUTANTS = {
    "validated mark not persisted": Mutant(
        "intake_bridge.pipeline",
        "marked = await batch.mark_validated(approved, answers.additions)",
        "marked = approved",
        MATRIX,
        "rpc-commit-1-killed-after",
    ),
    "committing mark not persisted": Mutant(
        "intake_bridge.pipeline",
        "            if dependencies.ledger.needs_mark:",
        "            if False:",
        MATRIX,
        "webhook-commit-1-killed-after",
    ),
    "conflict swallowed": Mutant(
        "intake_bridge.domain.outcomes",
        '"voided": _VOIDED, "conflict": _CONFLICT}\n# `committed`',
        '"voided": _VOIDED, "conflict": _COMMITTED}\n# `committed`',
        MATRIX,
        "rpc-commit-1-killed-after",
    ),
    "failures counted by read_ct": Mutant(
        "intake_bridge.pipeline",
        "elif message.failures + 1 > batch.max_retries:",
        "elif message.read_ct > batch.max_retries:",
        MATRIX,
        "rpc-validate-1-killed-before",
    ),
    "a receipt lost by a redelivery": Mutant(
        "intake_bridge.adapters.ledger_postgres",
        'if receipt is not None and receipt != "null" and outcome',
        'if word == "committed" and receipt is not None and outcome',
        MATRIX,
        "rpc-commit-1-killed-after",
    ),
    "a receipt of a webhook lost by a redelivery": Mutant(
        "intake_bridge.adapters.webhook",
        "    return outcome, None if value is None else rules.read(value)",
        '    return outcome, None if value is None or word == "duplicate" else rules.read(value)',
        MATRIX,
        "webhook-commit-1-killed-after",
    ),
    "the validator asked again although its data is stored": Mutant(
        "intake_bridge.pipeline",
        """if message.state is State.QUEUED]
        ready = [message for message in batch.open.values() if message.state is not State.QUEUED]
""",
        """if message.state is not State.COMMITTING]
        ready = [message for message in batch.open.values() if message.state is State.COMMITTING]
""",
        MATRIX,
        "rpc-mark_validated-1-killed-after",
    ),
    "validation not sent to the ledger": Mutant(
        "intake_bridge.domain.message",
        "self.text_with(self.seats, self.payload, self.validation)",
        "self.text_with(self.seats, self.payload, None)",
        MATRIX,
        "rpc-commit-1-killed-before",
    ),
    "validation sent as it came, and as it is stored": Mutant(
        "intake_bridge.batch",
        "durable[msg_id] = replace(bounded[msg_id], text=text)",
        "durable[msg_id] = bounded[msg_id]",
        "test_both_deliveries_send_the_same_body_whatever_the_validator_has_written",
        file="test_bridge_additions.py",
    ),
    "a payload in a log line": Mutant(
        "intake_bridge.domain.message",
        '"claim_id": str(self.claim_id)}',
        '"claim_id": str(self.claim_id), "payload": self.payload}',
        MATRIX,
        "rpc-validate-1-killed-before",
    ),
    "a payload in an error": Mutant(
        "intake_bridge.domain.anonymous",
        "    for found in _strings(messages, answers):",
        "    for found in ():",
        MATRIX,
        "webhook-validate-1-killed-before",
    ),
    "unfenced acknowledgement": Mutant(
        "0011_outcomes.sql",
        """    leased := ARRAY(SELECT intake_private.lock_leased(acknowledge.pool_id, acknowledge.msg_ids,
        acknowledge.read_cts));
""",
        "    leased := acknowledge.msg_ids;\n",
        MATRIX,
        "rpc-acknowledge-3-expired-and-taken",
    ),
    "a request to wait taken for a failure": Mutant(
        "intake_bridge.domain.last_minute",
        "if o.kind != DECIDED_BY_BRIDGE and not o.pauses_dependency]",
        "if o.kind != DECIDED_BY_BRIDGE]",
        "test_what_counts_as_a_failure",
        file=LAST_MINUTE,
    ),
    "a failure told for ever": Mutant(
        "intake_bridge.domain.last_minute",
        "self._clock() - self._seconds[0].begun > MINUTE_SECONDS",
        "False",
        "test_a_failure_counts_for_a_minute",
        file=LAST_MINUTE,
    ),
    "unfenced marks": Mutant(
        "0010_read.sql",
        "ON q.msg_id = f.msg_id\n        AND q.read_ct = f.read_ct\n",
        "ON q.msg_id = f.msg_id\n",
        MATRIX,
        "webhook-mark_validated-1-expired-and-taken",
    ),
    "late commits skipped by number": Mutant(
        "0010_read.sql",
        _DUE,
        _DUE + " q.msg_id > coalesce((SELECT max(a.msg_id) FROM pgmq.a_intake_queue a), 0) AND",
        LATE,
    ),
    "late commits skipped by time": Mutant(
        "0010_read.sql",
        _DUE,
        _DUE + " q.vt > coalesce((SELECT max(a.enqueued_at) FROM pgmq.a_intake_queue a), '-infinity') AND",
        LATE,
    ),
    "dead letter's slot released": Mutant(
        "0011_outcomes.sql",
        """            'dead_at', clock_timestamp(), 'queued_as', g.msg_id), g.headers
        FROM deleted g ORDER BY g.msg_id)
""",
        """            'dead_at', clock_timestamp(), 'queued_as', g.msg_id), g.headers
        FROM deleted g ORDER BY g.msg_id),
    freed AS (
        UPDATE intake.claimed_slots cs SET status = 'V', was_slot_no = cs.slot_no,
            slot_no = intake_private.voided_key(cs.msg_id, cs.part_no)
        FROM deleted g
        WHERE cs.claim_id = (g.message ->> 'claim_id')::uuid)
""",
        MATRIX,
        "webhook-dead_letter-1-killed-after",
    ),
    "the dependency is never suspected": Mutant(
        "intake_bridge.domain.common_failure",
        "        if _are_alike(self._failures.values()):",
        "        if False:",
        ALL_ALIKE,
    ),
    "the first failures count": Mutant(
        "intake_bridge.domain.common_failure",
        "        return frozenset(first)",
        "        return frozenset()",
        ALL_ALIKE,
    ),
    "failures of a suspected dependency count": Mutant(
        "intake_bridge.domain.dependency",
        "        if self.common_failure.breaker.is_to_blame(message.failures):",
        "        if False:",
        ALL_ALIKE,
    ),
    "a claim with counted failures raises suspicion": Mutant(
        "intake_bridge.domain.common_failure",
        "            counted = message.failures > 0 and outcome.result is Result.RETRY\n",
        "            counted = False\n",
        SOME_BAD,
    ),
    "a success among failures ends no suspicion": Mutant(
        "intake_bridge.domain.common_failure",
        "        if last_success is not None:",
        "        if last_success is not None and all(is_success(outcome) for _, outcome in answers):",
        SOME_BAD,
    ),
    "failures after the last success count": Mutant(
        "intake_bridge.domain.common_failure",
        "            answers = [each for each in answers if each[1].at > last_success]\n",
        "            answers = []\n",
        "test_failures_after_the_last_success_raise_suspicion_though_others_succeeded_before",
        file=COMMON_FAILURE,
    ),
    "what the bridge decides by itself is a success": Mutant(
        "intake_bridge.domain.common_failure",
        "    if outcome.kind == DECIDED_BY_BRIDGE:\n",
        "    if False:\n",
        "test_what_the_bridge_decides_by_itself_is_no_success",
        file=COMMON_FAILURE,
    ),
    "a claim with counted failures never raises suspicion": Mutant(
        "intake_bridge.domain.common_failure",
        "            counted = message.failures > 0 and outcome.result is Result.RETRY\n",
        "            counted = message.failures > 0\n",
        "test_a_claim_with_counted_failures_raises_suspicion_only_by_an_answer_that_ends_it_at_once",
        file=COMMON_FAILURE,
    ),
    "reads on beside a message that is read alone": Mutant(
        "intake_bridge.read_loop",
        """void=message.release)
        await self._batches.make_room(0)
""",
        """void=message.release)
""",
        DEADLY,
    ),
    "sends more than it has tokens for": Mutant(
        "intake_bridge.rate_limiter",
        "return self._permit(tokens, min(size, max(1, int(answer.granted * share))))",
        "return self._permit(tokens, size)",
        FLEET,
    ),
    "tokens never run out for their worker": Mutant(
        "intake_bridge.domain.tokens",
        "        return self._clock() < self._deadline",
        "        return True",
        FROZEN,
    ),
    "tokens returned before the call": Mutant(
        "intake_bridge.rate_limiter",
        """    async def __aenter__(self) -> Self:
""",
        """    async def __aenter__(self) -> Self:
        if self._tokens.lease is not None:
            await self._bucket.return_tokens(self._tokens.lease, self._tokens.tokens)
            self._tokens.lease = None
            return self
""",
        FROZEN,
    ),
    "the answer to a repeat is not believed": Mutant(
        "intake_bridge.domain.outcomes",
        "(good or (status, known.result) == _REPEATED)",
        "good",
        "test_commit_webhook_ends_in_committed_or_dead",
        file=OUTCOMES,
    ),
    "an approval that contradicts its status is believed": Mutant(
        "intake_bridge.domain.outcomes",
        "(good or (status, known.result) == _REPEATED)",
        "(good or status == 409)",
        "test_validate",
        file=OUTCOMES,
    ),
    "a contradiction never counts": Mutant(
        "intake_bridge.domain.outcomes",
        'return replace(_UNKNOWN, reason=f"{answer}, which',
        'return replace(_MISCONFIGURED, reason=f"{answer}, which',
        "test_validate",
        file=OUTCOMES,
    ),
    "a word in other letters is believed": Mutant(
        "intake_bridge.domain.outcomes",
        "known = words.get(word) if",
        "known = words.get(word.lower()) if",
        "test_commit_webhook_ends_in_committed_or_dead",
        file=OUTCOMES,
    ),
    "a failure of one claim alone never counts": Mutant(
        "intake_bridge.domain.claim_specific",
        "        if record.times < _TIMES:\n",
        "        if True:\n",
        CLAIM_SPECIFIC,
        file=ANSWERS,
    ),
    "an outage counts as specific to a claim": Mutant(
        "intake_bridge.domain.claim_specific",
        "if self._ended > record.ended_before:",
        "if self._ended > 0:",
        "test_an_outage_is_not_specific_to_a_claim_however_often_the_claim_fails",
        file=ANSWERS,
    ),
    "a rate limit counts as specific to a claim": Mutant(
        "intake_bridge.domain.claim_specific",
        "        if outcome.pauses_dependency and (",
        "        if False and (",
        "test_a_rate_limit_that_lets_others_through_counts_for_no_claim_within_ten_minutes",
        file=ANSWERS,
    ),
    "a claim-specific failure is the dependency's": Mutant(
        "intake_bridge.domain.breaker",
        "not claim_specific and self._failures > 0 and",
        "self._failures > 0 and",
        "test_a_claim_specific_failure_is_not_the_dependencys_because_of_the_claims_own_failures",
        file=BREAKER,
    ),
    "a dependency whose check failed is probed": Mutant(
        "intake_bridge.domain.breaker",
        "        if self._failed_check or self._clock()",
        "        if self._clock()",
        "test_nothing_is_read_for_a_dependency_whose_check_failed_until_a_check_succeeds",
        file=BREAKER,
    ),
    "a dependency that asks for pauses for ever is not reported": Mutant(
        "intake_bridge.domain.breaker",
        "        if lasted < self._tuning.report_pause_seconds:\n",
        "        if True:\n",
        FATES,
        file=ANSWERS,
    ),
    "a pause of 0 s is obeyed": Mutant(
        "intake_bridge.adapters.webhook",
        "max(seconds, _SHORTEST_PAUSE_SECONDS)",
        "max(seconds, 0.0)",
        FATES,
        file=ANSWERS,
    ),
    "a redirect's query is shown": Mutant(
        "intake_bridge.adapters.webhook",
        'host, parts.path, "", "")',
        'host, parts.path, parts.query, "")',
        "test_what_a_server_sends_is_understood",
        file=SENT,
    ),
    "a redirect's user is shown": Mutant(
        "intake_bridge.adapters.webhook",
        'parts.netloc.rpartition("@")[2]',
        "parts.netloc",
        "test_the_target_of_a_redirect_is_shown_without_what_may_be_secret",
        file=SENT,
    ),
    "a small body may decompress to an endless one": Mutant(
        "intake_bridge.adapters.encodings",
        "member.decompress(body, most + 1 - len(plain))",
        "member.decompress(body)",
        "test_a_small_body_that_decompresses_to_an_endless_one_is_cut_off",
        file=SENT,
    ),
    "an answer that is cut short is read": Mutant(
        "intake_bridge.adapters.encodings",
        "        if not member.eof:\n",
        "        if False:\n",
        "test_a_body_that_cannot_be_decompressed_is_reported_with_its_header",
        file=SENT,
    ),
}


class _Broken(SourceFileLoader):
    """Compiles the broken text; no cache, neither read nor written."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.path).decode()
        return compile(self.mutant.replaced(text), self.path, "exec")


class _Finder:
    """Finds one module, broken."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.where:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        loader = _Broken(fullname, spec.origin)
        loader.mutant = self._mutant
        spec.loader = loader
        return spec


def install(name: str) -> None:
    """Have this process import the broken module."""
    mutant = MUTANTS[name]
    assert mutant.where not in sys.modules, "too late: it is imported already"
    sys.meta_path.insert(0, _Finder(mutant))
