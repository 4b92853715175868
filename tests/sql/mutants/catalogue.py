"""The mutants: one textual change of a SQL file each, and the tests that must fail on it.

Each is a mistake that somebody has made, or would make while "simplifying". A change that no longer applies is an
error, so that this list cannot rot.
"""

from dataclasses import dataclass

CLAIMS = "0004_claims.sql"
BRIDGE = "0005_bridge.sql"
SLOTS = "0003_slots_and_holds.sql"


@dataclass(frozen=True)
class Mutant:
    """A broken variant of one SQL file."""

    file: str
    before: str
    after: str
    caught_by: str
    """The test function that must fail on it, in each of its parametrizations."""

    def patch(self, name: str, text: str) -> str:
        """The SQL to install instead of `text`."""
        if name != self.file:
            return text
        if text.count(self.before) != 1:
            raise ValueError(
                f"{name}: the mutant's text occurs {text.count(self.before)} times, not once: {self.before}"
            )
        return text.replace(self.before, self.after)


MUTANTS = {
    # The reference implementation's shape: update by position without a look at what is there.
    "taken slot overwritten": Mutant(
        CLAIMS,
        """            claim_resource.request_id, nth, at)
        ON CONFLICT DO NOTHING;""",
        """            claim_resource.request_id, nth, at)
        ON CONFLICT (pool_no, slot_no) DO UPDATE SET claim_id = excluded.claim_id, user_id = excluded.user_id,
            request_id = excluded.request_id, ord = excluded.ord, locked_at = excluded.locked_at;""",
        "test_a_number_that_is_held_already_is_never_sold_again",
    ),
    "queue write decoupled": Mutant(
        CLAIMS,
        """            WHERE NOT EXISTS (SELECT FROM intake.voided_requests v WHERE v.pool_no = pool.pool_no
                AND v.user_id = claim_resource.user_id AND v.request_id = claim_resource.request_id);
            IF FOUND THEN""",
        """            WHERE false;
            IF NOT FOUND THEN""",
        "test_an_aborted_claim_leaves_no_trace_and_its_number_comes_back",
    ),
    "limit keyed by request id": Mutant(
        SLOTS,
        "CREATE UNIQUE INDEX holds_user_key ON intake.holds (pool_no, user_id, ord) WHERE ord IS NOT NULL;",
        "CREATE UNIQUE INDEX holds_user_key ON intake.holds (pool_no, user_id, ord, request_id) WHERE ord IS NOT NULL;",
        "test_two_claims_of_a_user_at_once_wait_for_each_other",
    ),
    "request id not unique": Mutant(
        SLOTS,
        "CREATE UNIQUE INDEX holds_request_key ON intake.holds (pool_no, user_id, request_id);",
        "CREATE INDEX holds_request_key ON intake.holds (pool_no, user_id, request_id);",
        "test_i7_a_request_sent_twice_at_once_is_one_claim",
    ),
    "voided request forgotten": Mutant(
        BRIDGE,
        "    WHERE e.outcome = 'voided' AND e.request_id IS NOT NULL\n",
        "    WHERE false\n",
        "test_i7_a_retry_of_a_voided_claim_does_not_claim_again",
    ),
    "window before the retry": Mutant(
        CLAIMS,
        "    FOR attempt IN 1..20 LOOP\n",
        """    IF at >= pool.closes_at THEN
        outcome := 'closed';
        RETURN;
    END IF;
    FOR attempt IN 1..20 LOOP
""",
        "test_i7_a_retry_gets_the_first_answer_whatever_has_happened_since",
    ),
    "window by the transaction's clock": Mutant(
        CLAIMS,
        "at      timestamptz := clock_timestamp();",
        "at      timestamptz := now();",
        "test_the_window_closes_on_transactions_that_began_before_it",
    ),
    "sold out when only locked": Mutant(
        CLAIMS,
        """            IF settled THEN
                outcome := 'busy';""",
        """            IF settled THEN
                outcome := 'sold_out';""",
        "test_busy_and_not_sold_out_while_the_last_slot_may_still_return",
    ),
    "sold out for good": Mutant(
        CLAIMS,
        """
                AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)) THEN""",
        """) THEN""",
        "test_sold_out_only_after_the_last_slot_and_open_again_when_one_returns",
    ),
    "burnt numbers taken from running claims": Mutant(
        SLOTS,
        "            IF intake.pools_lockers() && tail.blockers THEN",
        "            IF false THEN",
        "test_a_running_claims_number_is_not_burnt",
    ),
    "burnt numbers lost": Mutant(
        SLOTS,
        "        EXIT WHEN cardinality(tail.suspects) = 0 OR cardinality(tail.blockers) > 0;",
        "        tail.suspects := '{}'; EXIT;",
        "test_an_aborted_claim_leaves_no_trace_and_its_number_comes_back",
    ),
    "unfenced": Mutant(
        BRIDGE,
        "ON q.msg_id = f.msg_id AND q.read_ct = f.read_ct",
        "ON q.msg_id = f.msg_id",
        "test_i9_a_stale_worker_changes_nothing",
    ),
    "remembered position": Mutant(
        BRIDGE,
        "        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id\n",
        """        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id
            AND q.msg_id > coalesce((SELECT max(a.msg_id) FROM pgmq.a_intake_queue a), 0)
""",
        "test_a_message_that_is_committed_late_is_not_passed_over",
    ),
    "voided slot kept": Mutant(
        BRIDGE,
        "        WHERE e.outcome = 'voided' AND h.pool_no = e.pool_no",
        "        WHERE false AND h.pool_no = e.pool_no",
        "test_i8_an_acknowledged_claim_is_archived_and_its_slot_consumed_or_freed",
    ),
    "replay starts over": Mutant(
        BRIDGE,
        """|| '{"failures": 0}', r.headers""",
        """|| '{"failures": 0, "state": "queued"}', r.headers""",
        "test_a_dead_letter_keeps_its_slot_and_its_state_until_it_is_replayed_once",
    ),
    "acknowledgement overlaps the rebuild": Mutant(
        SLOTS,
        "    LOCK TABLE intake.holds IN EXCLUSIVE MODE;\n",
        "",
        "test_an_acknowledgement_during_a_rebuild_is_not_lost",
    ),
    "seal without barrier": Mutant(
        CLAIMS,
        "    LOCK TABLE intake.pools IN ACCESS EXCLUSIVE MODE;\n",
        "",
        "test_i2_seal_waits_for_running_claims_and_lets_none_pass_it",
    ),
    "dead letters hold nothing": Mutant(
        SLOTS,
        "AND i.place IN ('queued', 'dead', 'committed')",
        "AND i.place IN ('queued', 'committed')",
        "test_i6_a_rebuild_restores_every_hold_and_every_resource_id",
    ),
    "everybody may execute": Mutant(
        "0001_roles_and_schema.sql",
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;",
        "",
        "test_a_role_calls_its_functions_and_no_other",
    ),
    "plans from an empty table": Mutant(
        SLOTS,
        "    PERFORM pg_clear_relation_stats('intake', 'holds');",
        "    ANALYZE intake.holds;",
        "test_a_plan_made_for_an_empty_pool_is_good_for_a_full_one",
    ),
}
