"""Mutants of what bridges call: messages, dead letters, housekeeping and the rate limit."""

from tests.sql.mutants.mutant import Mutant

SLOTS = "0003_slots.sql"
READ = "0010_read.sql"
OUTCOMES = "0011_outcomes.sql"
DEAD_LETTERS = "0012_dead_letters.sql"
STATUS = "0013_engine_status.sql"
HOUSEKEEPING = "0015_housekeeping.sql"
RATE_LIMIT = "0016_rate_limit.sql"

MUTANTS = {
    "voided request forgotten": Mutant(
        OUTCOMES,
        "            slot_no = intake_private.voided_key(cs.msg_id, cs.part_no)\n        FROM ended e",
        "            slot_no = intake_private.voided_key(cs.msg_id, cs.part_no), request_id = NULL, unique_key = NULL\n"
        "        FROM ended e",
        "test_i7_a_retry_of_a_voided_claim_does_not_claim_again",
    ),
    "a claim ends with its first slot": Mutant(
        OUTCOMES,
        "        FROM deleted g CROSS JOIN LATERAL jsonb_array_elements(g.message -> 'seats') AS s (seat))\n"
        "    SELECT (SELECT array_agg(g.msg_id) FROM deleted g),",
        "        FROM deleted g CROSS JOIN LATERAL (SELECT g.message -> 'seats' -> 0) AS s (seat))\n"
        "    SELECT (SELECT array_agg(g.msg_id) FROM deleted g),",
        "test_i8_all_slots_of_a_claim_are_consumed_or_freed_together",
    ),
    "a discarded claim keeps all slots but its first": Mutant(
        DEAD_LETTERS,
        "        FROM deleted g CROSS JOIN LATERAL jsonb_array_elements(g.message -> 'seats') AS s (seat))\n",
        "        FROM deleted g CROSS JOIN LATERAL (SELECT g.message -> 'seats' -> 0) AS s (seat))\n",
        "test_a_dead_letter_keeps_all_its_slots_until_it_is_discarded",
    ),
    "a replay moves the first slot only": Mutant(
        DEAD_LETTERS,
        "        CROSS JOIN LATERAL jsonb_array_elements(r.message -> 'seats') AS s (seat)\n",
        "        CROSS JOIN LATERAL (SELECT r.message -> 'seats' -> 0) AS s (seat)\n",
        "test_a_replayed_claim_moves_with_all_its_slots",
    ),
    "keys of voided slots that messages share": Mutant(
        SLOTS,
        "RETURN -(msg_id * 128 + part_no);",
        "RETURN -(msg_id * 64 + part_no);",
        "test_a_hundred_voided_slots_have_keys_of_their_own",
    ),
    "a second approval replaces the first": Mutant(
        OUTCOMES,
        " OR q.message ->> 'state' = 'validated' THEN '{}'",
        " THEN '{}'",
        "test_i5_the_first_approval_counts",
    ),
    "validation data without a limit": Mutant(
        OUTCOMES,
        "intake_private.bounded(a.validation, config.max_payload_bytes)",
        "a.validation",
        "test_validation_data_that_is_too_large_is_truncated_and_the_approval_stands",
    ),
    "receipt lost": Mutant(
        OUTCOMES,
        "WHEN g.outcome = 'committed' AND g.receipt <> 'null'",
        "WHEN false",
        "test_a_receipt_is_kept_with_its_claim_and_in_its_status",
    ),
    "receipt without a limit": Mutant(
        OUTCOMES,
        "intake_private.bounded(g.receipt, 2048)",
        "g.receipt",
        "test_a_receipt_that_is_too_large_is_truncated_and_the_sale_stands",
    ),
    "payloads shown without a record": Mutant(
        DEAD_LETTERS,
        "    PERFORM intake_private.record_audit(dead_letter_payloads.pool_id, 'show payloads',"
        " dead_letter_payloads.actor,\n"
        "        dead_letter_payloads.reason, jsonb_build_object('asked', dead_letter_payloads.msg_ids));\n",
        "",
        "test_payloads_of_dead_letters_are_shown_to_the_owner_and_recorded",
    ),
    "committed slots counted as claims": Mutant(
        STATUS,
        "            count(*) FILTER (WHERE cs.status = 'C' AND cs.part_no = 1)\n",
        "            count(*) FILTER (WHERE cs.status = 'C')\n",
        "test_i6_slots_and_claims_are_counted_apart_and_after_a_crash_alike",
    ),
    "unfenced": Mutant(
        READ,
        "ON q.msg_id = f.msg_id\n        AND q.read_ct = f.read_ct",
        "ON q.msg_id = f.msg_id",
        "test_i9_a_stale_worker_changes_nothing",
    ),
    "unfenced release": Mutant(
        READ,
        "SET read_ct = q.read_ct + 1, vt = clock_timestamp(),\n            headers = q.headers - 'worker',",
        "SET vt = clock_timestamp(),",
        "test_i9_a_release_takes_the_lease_away",
    ),
    "unfinished deliveries are not counted": Mutant(
        READ,
        "                    coalesce((q.headers ->> 'unfinished')::int, 0) + 1)",
        "                    coalesce((q.headers ->> 'unfinished')::int, 0))",
        "test_i2_after_three_unfinished_deliveries_a_message_is_read_alone",
    ),
    "an unfinished delivery in a batch counts against each message": Mutant(
        READ,
        """'{"quarantined": true, "unfinished": 0}'""",
        """'{"quarantined": true}'""",
        "test_i2_only_deliveries_alone_make_a_message_a_dead_letter",
    ),
    "a finished delivery is still counted": Mutant(
        OUTCOMES,
        "        headers = q.headers - ARRAY['worker', 'unfinished', 'quarantined'],\n",
        "        headers = q.headers - ARRAY['worker', 'quarantined'],\n",
        "test_deliveries_of_a_message_that_was_given_back_are_counted_from_zero",
    ),
    "a released message keeps its worker": Mutant(
        READ,
        "            headers = q.headers - 'worker', -- this ends the delivery\n",
        "",
        "test_a_release_is_the_end_of_a_delivery",
    ),
    "a replay keeps the count of unfinished deliveries": Mutant(
        DEAD_LETTERS,
        "            r.headers - ARRAY['worker', 'unfinished', 'quarantined']",
        "            r.headers",
        "test_a_replayed_message_has_no_unfinished_deliveries",
    ),
    "replay forgets that a bridge has read it": Mutant(
        DEAD_LETTERS,
        "        SELECT r.queue_id, clock_timestamp(), 1,\n            (r.message",
        "        SELECT r.queue_id, clock_timestamp(), 0,\n            (r.message",
        "test_i8_a_replayed_dead_letter_is_released_through_the_ledger",
    ),
    "claim timeout without the ledger": Mutant(
        HOUSEKEEPING,
        "    PERFORM intake_private.revoke_leases(config.pool_no, overdue, 'claim timeout');",
        """    PERFORM intake_private.archive(config.pool_id, overdue, overdue,
        array_fill('voided'::text, ARRAY[cardinality(overdue)]));""",
        "test_i8_a_slot_is_free_after_the_claim_timeout_when_the_ledger_has_voided",
    ),
    "claim timeout skips a message that is always read again": Mutant(
        HOUSEKEEPING,
        "            AND (q.vt <= clock_timestamp() OR q.headers ->> 'worker' IS NULL)",
        "            AND q.vt <= clock_timestamp()",
        "test_a_claim_that_waits_for_its_next_attempt_times_out",
    ),
    "discard of letters that were not named": Mutant(
        DEAD_LETTERS,
        "        WHERE d.msg_id = ANY (discard.msg_ids) AND d.message ->> 'pool_id' = discard.pool_id",
        "        WHERE d.message ->> 'pool_id' = discard.pool_id",
        "test_the_audit_says_who_did_what_and_by_what_evidence_the_latest_first",
    ),
    "read from a remembered position": Mutant(
        READ,
        "        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND",
        """        WHERE q.msg_id > coalesce((SELECT max(a.msg_id) FROM pgmq.a_intake_queue a), 0)
            AND q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND""",
        "test_a_message_that_is_committed_late_is_not_skipped",
    ),
    "read visits leased messages": Mutant(
        READ,
        "        ORDER BY q.vt LIMIT",
        "        ORDER BY q.msg_id LIMIT",
        "test_a_read_visits_only_the_messages_that_it_leases",
    ),
    "voided slot kept": Mutant(
        OUTCOMES,
        "        WHERE e.outcome <> 'committed' AND cs.pool_no = e.pool_no",
        "        WHERE false AND cs.pool_no = e.pool_no",
        "test_i8_an_acknowledged_claim_is_archived_and_its_slot_consumed_or_freed",
    ),
    "failure counted twice": Mutant(
        OUTCOMES,
        "        headers = q.headers - ARRAY['worker', 'unfinished', 'quarantined'],\n",
        "",
        "test_a_failure_that_is_reported_twice_is_counted_once",
    ),
    "replay starts over": Mutant(
        DEAD_LETTERS,
        """|| '{"failures": 0}',""",
        """|| '{"failures": 0, "state": "queued"}',""",
        "test_a_dead_letter_keeps_its_slot_and_its_state_until_it_is_replayed_once",
    ),
    "metrics are never deleted": Mutant(
        HOUSEKEEPING,
        "o.at < long_ago ORDER BY",
        "o.at < '-infinity' ORDER BY",
        "test_an_event_of_weeks_has_no_more_rows_than_one_of_an_hour",
    ),
    "tokens on lease are not in the bucket": Mutant(
        RATE_LIMIT,
        "        - (SELECT coalesce(sum(l.tokens), 0) FROM unnest(bucket.leases) l);",
        "        - 0;",
        "test_i10_a_slow_call_keeps_the_bucket_from_filling",
    ),
    "tokens of a dead worker never come back": Mutant(
        RATE_LIMIT,
        "        FROM unnest(bucket.leases) l WHERE l.until > at);",
        "        FROM unnest(bucket.leases) l);",
        "test_i10_the_rate_is_kept_while_workers_die_with_tokens",
    ),
    "tokens of a dead worker are granted again": Mutant(
        RATE_LIMIT,
        "    bucket.counted_at := at;",
        """    bucket.tokens := bucket.tokens
        + (SELECT coalesce(sum(l.tokens), 0) FROM unnest(bucket.leases) l WHERE l.until <= at);
    bucket.counted_at := at;""",
        "test_i10_tokens_of_a_dead_worker_come_back_once",
    ),
    "bucket without a lock": Mutant(
        RATE_LIMIT,
        """    SELECT b.* INTO bucket FROM intake.token_buckets b WHERE b.pool_no = config.pool_no FOR UPDATE;
    IF NOT FOUND THEN""",
        """    SELECT b.* INTO bucket FROM intake.token_buckets b WHERE b.pool_no = config.pool_no;
    IF NOT FOUND THEN""",
        "test_i10_two_workers_that_ask_at_once_share_one_bucket",
    ),
    "a crash forgets the tokens on lease": Mutant(
        RATE_LIMIT,
        "        PERFORM intake_private.open_bucket(config, false);",
        "        PERFORM intake_private.open_bucket(config, true);",
        "test_i10_a_crash_gives_nothing_away",
    ),
    "the first worker gets all tokens": Mutant(
        RATE_LIMIT,
        "THEN least(wanted, portion) ELSE 0 END;",
        "THEN least(wanted, floor(bucket.tokens)::int) ELSE 0 END;",
        "test_a_lease_is_at_most_half_of_the_bucket",
    ),
    "lease finished by one call": Mutant(
        RATE_LIMIT,
        "        IF finished >= mine.tokens THEN",
        "        IF finished > 0 THEN",
        "test_i10_calls_that_have_not_finished_stay_on_lease",
    ),
    "claimers without time limits left alone": Mutant(
        HOUSEKEEPING,
        "    PERFORM intake.end_overdue(); -- first: such a session may block what follows\n",
        "",
        "test_housekeeping_ends_claimers_that_lift_their_time_limits",
    ),
    "a claimer that waits for the database lock stays": Mutant(
        HOUSEKEEPING,
        "l.locktype IN ('relation', 'object')",
        "l.locktype = 'relation'",
        "test_a_claimer_that_waits_for_the_database_alone_is_ended_and_logins_go_on",
    ),
    "transactions of all roles ended": Mutant(
        HOUSEKEEPING,
        " AND NOT r.rolsuper AND pg_has_role(r.oid, 'claimer', 'MEMBER')",
        " AND NOT r.rolsuper",
        "test_housekeeping_ends_claimers_that_lift_their_time_limits",
    ),
}
