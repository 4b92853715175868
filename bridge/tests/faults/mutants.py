"""Broken bridges: one textual change each, in Python or SQL, and the case that must fail on it.

A change that no longer applies is an error, so that this list cannot rot. Imports nothing of the bridge: a mutant is
installed before the bridge is imported.
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
    """And the case, of a function that has many."""
    file: str = ""
    """The test's file in bridge/tests, of a rule that can be broken without processes: run by test_rule_mutants.py."""

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
ALL_ALIKE = "test_a_ledger_that_refuses_everybody_is_told_and_nobody_pays"
SOME_BAD = "test_claims_that_failed_among_good_ones_end_though_nothing_else_is_left"
DEADLY = "test_while_a_message_is_read_alone_its_bridge_has_nothing_else_in_hand"
_DUE = "        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND"
FLEET = "test_i10_holds_in_the_ledger_while_workers_join_and_die"
FROZEN = "test_i10_tokens_of_a_worker_that_was_frozen_are_not_used"
ANSWERS, SENT = "test_bridge_answers.py", "test_bridge_answers_sent.py"
TRIAL = "test_bridge_trial.py"
OUTCOMES, BREAKER = "test_bridge_outcomes.py", "test_bridge_breaker.py"
FATES = "test_every_answer_that_is_given_for_ever_ends_the_claim_or_is_told"
ALONE = "test_what_one_claim_alone_is_told_while_others_are_answered_ends_it"

MUTANTS = {
    "validated mark not persisted": Mutant(
        "intake_bridge.pipeline",
        "return ready + await self._marked(batch, self._queue.mark_validated, approved), [m for m, _ in declined]",
        "return ready + approved, [m for m, _ in declined]",
        MATRIX,
        "rpc-commit-1-killed-after",
    ),
    "committing mark not persisted": Mutant(
        "intake_bridge.pipeline",
        "        if targets.ledger.needs_mark:",
        "        if False:",
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
    "unfenced acknowledgement": Mutant(
        "0011_outcomes.sql",
        "    FROM intake_private.lock_leased(acknowledge.pool_id, acknowledge.msg_ids, acknowledge.read_cts) l\n",
        "    FROM unnest(acknowledge.msg_ids) l\n",
        MATRIX,
        "rpc-acknowledge-3-expired-and-taken",
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
        UPDATE intake.claimed_slots cs SET status = 'V', was_slot_no = cs.slot_no, slot_no = -cs.msg_id FROM deleted g
        WHERE cs.claim_id = (g.message ->> 'claim_id')::uuid)
""",
        MATRIX,
        "webhook-dead_letter-1-killed-after",
    ),
    "nobody accuses the target": Mutant(
        "intake_bridge.domain.trial",
        "        if _alike(self._accusers.values()):",
        "        if False:",
        ALL_ALIKE,
    ),
    "the first to be refused pay": Mutant(
        "intake_bridge.domain.trial",
        "        return frozenset(first)",
        "        return frozenset()",
        ALL_ALIKE,
    ),
    "refusals of an accused target are counted": Mutant(
        "intake_bridge.domain.target",
        "        if self.trial.breaker.excuses(message.failures):",
        "        if False:",
        ALL_ALIKE,
    ),
    "who has paid accuses the target still": Mutant(
        "intake_bridge.domain.trial",
        "            paid = message.failures > 0 and outcome.result is Result.RETRY\n",
        "            paid = False\n",
        SOME_BAD,
    ),
    "a success among failures acquits nobody": Mutant(
        "intake_bridge.domain.trial",
        "        if served is not None:",
        "        if served is not None and all(serves(outcome) for _, outcome in answers):",
        SOME_BAD,
    ),
    "what fails behind the last success pays": Mutant(
        "intake_bridge.domain.trial",
        "            answers = [each for each in answers if each[1].at > served]\n",
        "            answers = []\n",
        "test_what_failed_later_than_the_last_success_accuses_though_others_succeeded_before",
        file=TRIAL,
    ),
    "a word of our own acquits the target": Mutant(
        "intake_bridge.domain.trial",
        "    if outcome.kind == OURS:\n",
        "    if False:\n",
        "test_a_verdict_of_our_own_is_no_success",
        file=TRIAL,
    ),
    "who has paid never accuses": Mutant(
        "intake_bridge.domain.trial",
        "            paid = message.failures > 0 and outcome.result is Result.RETRY\n",
        "            paid = message.failures > 0\n",
        "test_who_has_paid_accuses_by_a_word_that_ends_it_at_once_and_not_by_another_failure",
        file=TRIAL,
    ),
    "reads on beside a message that is read alone": Mutant(
        "intake_bridge.worker",
        """        self._begin("alone", batch, work(batch, targets))
        await self._make_room(0)
""",
        """        self._begin("alone", batch, work(batch, targets))
""",
        DEADLY,
    ),
    "sends more than it has tokens for": Mutant(
        "intake_bridge.metering",
        "return self._open(grant, min(size, max(1, int(answer.granted * share))))",
        "return self._open(grant, size)",
        FLEET,
    ),
    "tokens never run out for their worker": Mutant(
        "intake_bridge.domain.meter",
        "        return self._clock() < self._deadline",
        "        return True",
        FROZEN,
    ),
    "tokens settled before the call": Mutant(
        "intake_bridge.metering",
        """    async def __aenter__(self) -> Self:
""",
        """    async def __aenter__(self) -> Self:
        if self._grant.lease is not None:
            await self._meter.return_tokens(self._grant.lease, self._grant.tokens)
            self._grant.lease = None
            return self
""",
        FROZEN,
    ),
    "what a repeat is told is not believed": Mutant(
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
    "what one claim alone is told never counts": Mutant(
        "intake_bridge.domain.singled_out",
        "        if record.times < _TIMES:\n",
        "        if True:\n",
        ALONE,
        file=ANSWERS,
    ),
    "an outage is taken for one claim's": Mutant(
        "intake_bridge.domain.singled_out",
        "if self._ended > record.ended_before:",
        "if self._ended > 0:",
        "test_an_outage_in_which_nobody_is_answered_is_no_claims_however_often_it_is_asked_about",
        file=ANSWERS,
    ),
    "a rate limit is taken for one claim's": Mutant(
        "intake_bridge.domain.singled_out",
        "        if outcome.holds and (",
        "        if False and (",
        "test_a_rate_limit_that_lets_others_through_is_nobodys_failure_for_ten_minutes",
        file=ANSWERS,
    ),
    "a claim is excused by its own failures": Mutant(
        "intake_bridge.domain.breaker",
        "(not alone and self._suspects > 0",
        "(self._suspects > 0",
        "test_a_claim_that_fails_as_others_are_answered_is_not_excused_by_its_own_failures",
        file=BREAKER,
    ),
    "a target that cannot work is probed all the same": Mutant(
        "intake_bridge.domain.breaker",
        "        if self._unfit or self._clock()",
        "        if self._clock()",
        "test_a_target_that_a_look_has_found_unfit_is_not_read_for_until_a_look_finds_otherwise",
        file=BREAKER,
    ),
    "a target that holds everybody for ever is not told": Mutant(
        "intake_bridge.domain.breaker",
        "        if lasted < self._tuning.held_seconds:\n",
        "        if True:\n",
        FATES,
        file=ANSWERS,
    ),
    "a pause of nought is obeyed": Mutant(
        "intake_bridge.adapters.webhook",
        "max(seconds, _SHORTEST_PAUSE_SECONDS)",
        "max(seconds, 0.0)",
        FATES,
        file=ANSWERS,
    ),
    "a redirect's query is told": Mutant(
        "intake_bridge.adapters.webhook",
        'host, parts.path, "", "")',
        'host, parts.path, parts.query, "")',
        "test_what_a_server_sends_is_understood",
        file=SENT,
    ),
    "a redirect's user is told": Mutant(
        "intake_bridge.adapters.webhook",
        'parts.netloc.rpartition("@")[2]',
        "parts.netloc",
        "test_where_a_redirect_points_to_is_told_without_what_may_be_secret",
        file=SENT,
    ),
    "a small body may hold an endless one": Mutant(
        "intake_bridge.adapters.encodings",
        "member.decompress(body, most + 1 - len(plain))",
        "member.decompress(body)",
        "test_a_small_body_that_holds_an_endless_one_is_cut_off",
        file=SENT,
    ),
    "an answer that is cut short is read": Mutant(
        "intake_bridge.adapters.encodings",
        "        if not member.eof:\n",
        "        if False:\n",
        "test_a_body_that_cannot_be_unpacked_is_told_by_its_header",
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
