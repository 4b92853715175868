"""Mutants of holds: confirmation, extension, release, and how holds end and are forgotten."""

from tests.sql.mutants.mutant import Mutant

CLAIM_STEPS = "0007_claim_steps.sql"
ENGINE_STATUS = "0013_engine_status.sql"
HOUSEKEEPING = "0015_housekeeping.sql"
HOLDS = "0020_holds.sql"

MUTANTS = {
    "a hold freed after it was confirmed": Mutant(
        HOLDS,
        "DELETE FROM intake.holds h WHERE h.claim_id = confirm_claim.claim_id",
        "UPDATE intake.holds h SET extended = true WHERE h.claim_id = confirm_claim.claim_id",
        "test_housekeeping_ends_only_holds_that_are_over",
    ),
    "confirmed without the clock": Mutant(
        HOLDS,
        "            AND h.ended IS NULL AND h.expires_at > clock_timestamp()\n",
        "            AND h.ended IS NULL\n",
        "test_a_hold_ends_by_the_clock_of_db1",
    ),
    # It frees the slots that it has seen held, not those whose holds it has ended.
    "expiry takes a confirmed hold": Mutant(
        HOLDS,
        """        FOR UPDATE SKIP LOCKED) h;
    IF overdue""",
        """        ) h;
    PERFORM intake_private.record_outcomes(config.pool_id, array_agg(cs.slot_no), array_agg(cs.claim_id),
        array_agg('expired'::text)) FROM intake.claimed_slots cs WHERE cs.claim_id = ANY (overdue);
    IF overdue""",
        "test_i2_a_confirmation_under_way_when_the_hold_ends_stands",
    ),
    "expiry takes a hold that is being extended": Mutant(
        HOLDS,
        "        FOR UPDATE SKIP LOCKED) h;\n    IF overdue",
        "        ) h;\n    IF overdue",
        "test_i2_an_extension_under_way_when_the_hold_ends_stands",
    ),
    "an extension under way is taken for an expiry": Mutant(
        HOLDS,
        "        PERFORM FROM intake.holds h WHERE h.claim_id = confirm_claim.claim_id FOR UPDATE;\n",
        "",
        "test_a_confirmation_waits_for_an_extension_that_is_under_way",
    ),
    "extended again and again": Mutant(
        HOLDS, "h.ended IS NULL AND NOT h.extended AND", "h.ended IS NULL AND", "test_a_hold_is_extended_once"
    ),
    "extended without the clock": Mutant(
        HOLDS,
        " AND NOT h.extended AND h.expires_at > clock_timestamp()\n",
        " AND NOT h.extended\n",
        "test_a_hold_ends_by_the_clock_of_db1",
    ),
    "another user's hold confirmed": Mutant(
        HOLDS,
        "AND h.message ->> 'user_id' = confirm_claim.user_id",
        "",
        "test_a_claim_of_another_user_is_unknown",
    ),
    "another payload confirmed again": Mutant(
        HOLDS,
        "    ELSIF confirm_claim.payload <> message -> 'payload' AND",
        "    ELSIF false AND",
        "test_i7_of_two_confirmations_with_different_payloads_one_is_refused",
    ),
    "the first payload forgotten at the confirmation": Mutant(
        HOLDS,
        "jsonb_build_object('payload', payload, 'first_payload', message -> 'payload')",
        "jsonb_build_object('payload', payload)",
        "test_i7_a_repeated_claim_is_compared_with_its_own_payload",
    ),
    "the payload of the confirmation lost": Mutant(
        HOLDS,
        "    IF payload IS NOT NULL THEN\n",
        "    IF false THEN\n",
        "test_a_confirmation_puts_the_claim_on_its_way",
    ),
    "a confirmed claim keeps its old place on the queue": Mutant(
        HOLDS,
        "bigint := nextval('pgmq.q_intake_queue_msg_id_seq');",
        "bigint := hold.msg_id;",
        "test_the_age_of_the_queue_counts_from_the_confirmation",
    ),
    "holds do not end while paused": Mutant(
        HOUSEKEEPING,
        "    IF config.hold_seconds IS NOT NULL THEN",
        "    IF config.hold_seconds IS NOT NULL AND NOT config.paused THEN",
        "test_people_may_confirm_while_the_pool_is_paused_and_holds_end",
    ),
    "a hold counted as queue depth": Mutant(
        ENGINE_STATUS,
        "count(*) FILTER (WHERE cs.status = 'R' AND cs.part_no = 1)",
        "count(*) FILTER (WHERE cs.status IN ('R', 'H') AND cs.part_no = 1)",
        "test_holds_are_counted_apart_from_the_queue",
    ),
    "the limit forgets holds": Mutant(
        CLAIM_STEPS,
        "count(*) FILTER (WHERE cs.status <> 'V')",
        "count(*) FILTER (WHERE cs.status NOT IN ('H', 'V'))",
        "test_the_limit_counts_holds",
    ),
    "the first key of a user forgotten": Mutant(
        HOLDS,
        "p.unique_key::bigint IN (1, l.key)",
        "p.unique_key::bigint = l.key",
        "test_the_limit_holds_when_the_first_claim_of_a_user_is_over",
    ),
    "the last key of a user forgotten": Mutant(
        HOLDS,
        "p.unique_key::bigint IN (1, l.key)",
        "p.unique_key::bigint = 1",
        "test_the_limit_holds_when_the_last_claim_of_a_user_is_over",
    ),
    "claims forgotten by the configuration of a moment ago": Mutant(
        HOLDS,
        "SELECT p.claims_per_user IS NOT NULL INTO limited FROM intake.pools p WHERE p.pool_no = config.pool_no;",
        "SELECT config.claims_per_user IS NOT NULL INTO limited;",
        "test_keys_are_not_changed_while_claims_are_forgotten",
    ),
    "rows that stay are looked at in each call": Mutant(
        HOLDS,
        "h SET ended_at = clock_timestamp()\n        WHERE h.claim_id = ANY (ARRAY(SELECT n.",
        "h SET ended_at = h.ended_at\n        WHERE h.claim_id = ANY (ARRAY(SELECT n.",
        "test_a_row_that_stays_is_not_looked_at_in_each_call",
    ),
    "forgotten holds are not counted": Mutant(
        HOLDS,
        "    FROM gone g HAVING count(*) > 0\n",
        "    FROM gone g HAVING false\n",
        "test_ended_holds_are_forgotten_and_stay_counted",
    ),
}
