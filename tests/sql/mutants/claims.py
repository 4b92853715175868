"""Mutants of claims: the numbers, the claim functions, status and release."""

from tests.sql.mutants.mutant import Mutant

SLOTS = "0003_slots.sql"
NUMBERS = "0004_numbers.sql"
CLAIM_STEPS = "0007_claim_steps.sql"
CLAIMS = "0008_claims.sql"
STATUS_AND_RELEASE = "0009_status_and_release.sql"

# What an INSERT must not do when its slot is claimed already.
OVERWRITE = """ON CONFLICT (pool_no, slot_no) DO UPDATE SET claim_id = excluded.claim_id, user_id = excluded.user_id,
                request_id = excluded.request_id, unique_key = excluded.unique_key, msg_id = excluded.msg_id"""

_REFUSED_BATCH = """        SELECT min(p.answer), array_agg(a.n) INTO answer, took
        FROM (SELECT p.pool_no, p.claims_per_user, coalesce(intake_private.closed_reason(p, at), CASE
                WHEN p.sold_out AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
                THEN 'sold_out' END) AS answer
            FROM intake.pools p WHERE p.pool_id = claim_batch.pool_id OFFSET 0) p
        CROSS JOIN unnest(user_ids, request_ids, quantities) WITH ORDINALITY AS a (user_id, request_id, quantity, n)
        WHERE p.answer IS NOT NULL AND coalesce(a.quantity, 1) <= coalesce(p.claims_per_user, 100)
            AND """

MUTANTS = {
    "a retry overtakes the standby": Mutant(
        CLAIM_STEPS,
        """                PERFORM intake_private.wait_for_standby();
                EXIT;""",
        "                EXIT;",
        "test_i7_a_retry_is_answered_when_the_standby_has_its_claim",
    ),
    "a status overtakes the standby": Mutant(
        CLAIM_STEPS,
        "        PERFORM pg_logical_emit_message(true, 'intake', 'wait for standby');\n",
        "",
        "test_i2_claim_status_answers_when_the_standby_has_the_claim",
    ),
    "local is as good as on": Mutant(
        CLAIM_STEPS,
        "= 'local' AND current_setting('synchronous_standby_names') = '';",
        "= 'local';",
        "test_i2_nothing_is_answered_where_a_commit_does_not_wait_for_the_standby",
    ),
    "a status in two snapshots": Mutant(
        STATUS_AND_RELEASE,
        """CREATE FUNCTION intake_private.state_of(claimed intake.claimed_slots) RETURNS text
LANGUAGE sql STABLE""",
        """CREATE FUNCTION intake_private.state_of(claimed intake.claimed_slots) RETURNS text
LANGUAGE sql VOLATILE""",
        "test_a_claim_that_ends_while_its_status_is_asked_is_not_taken_for_dead",
    ),
    # First the users without claims, then the free list: a number that moves in between is in neither.
    "sold-out batch in two snapshots": Mutant(
        CLAIMS,
        _REFUSED_BATCH,
        """        took := ARRAY(
            SELECT a.n FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
            WHERE (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no
                AND cs.user_id = a.user_id AND cs.unique_key = a.request_id || '/1') IS NULL);
"""
        + _REFUSED_BATCH
        + "a.n = ANY (took) OR ",
        "test_the_last_slot_and_its_new_owner_are_seen_at_one_instant",
    ),
    "sold-out batch forgets earlier claims": Mutant(
        CLAIMS,
        """            a.request_id)) IS NULL;
        RETURN QUERY SELECT t, answer""",
        """            a.request_id)) IS NULL OR p.answer IS NOT NULL;
        RETURN QUERY SELECT t, answer""",
        "test_i7_a_caller_with_a_claim_gets_it_again_in_a_sold_out_batch",
    ),
    "batch sold out for good": Mutant(
        CLAIMS,
        """ AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
                THEN""",
        " THEN",
        "test_a_batch_after_the_last_slot_gets_what_has_come_back",
    ),
    # As a known implementation does it: update by position without a check of what is there.
    "taken slot overwritten": Mutant(
        CLAIMS,
        """first_key, CASE WHEN hold_seconds IS NULL THEN 'R' ELSE 'H' END, at)
                ON CONFLICT DO NOTHING""",
        """first_key, CASE WHEN hold_seconds IS NULL THEN 'R' ELSE 'H' END, at)
                """
        + OVERWRITE,
        "test_a_number_that_is_claimed_already_is_never_sold_again",
    ),
    # The same in a batch, where the sequence gives many positions at once.
    "batch by position without a check": Mutant(
        CLAIMS,
        """            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.claim_id),""",
        "            "
        + OVERWRITE
        + """
            RETURNING claimed_slots.claim_id),""",
        "test_a_batch_skips_numbers_that_are_claimed_already",
    ),
    # And for seats by name, where all users want the same position.
    "named seat overwritten": Mutant(
        CLAIM_STEPS,
        """            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.slot_no)""",
        "            "
        + OVERWRITE
        + """
            RETURNING claimed_slots.slot_no)""",
        "test_a_named_seat_in_a_running_claim_is_waited_for",
    ),
    "queue write decoupled": Mutant(
        CLAIMS,
        """VALUES (msg_id, at, intake_private.intent(claim_resource.claim_id, claim_resource.pool_id,
                            claim_resource.user_id, claim_resource.request_id, jsonb_build_array(intake_private.seat(
                                claim_resource.slot_no, claim_resource.resource_id, claim_resource.label,
                                claim_resource.attributes)), claim_resource.payload, at),
                            intake_private.headers_of(claim_resource.traceparent));""",
        "SELECT msg_id, at, '{}', NULL WHERE false;",
        "test_an_aborted_claim_leaves_no_trace_and_its_number_comes_back",
    ),
    "limit keyed by request id": Mutant(
        SLOTS,
        "claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, unique_key);",
        "claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, unique_key, request_id);",
        "test_two_claims_of_a_user_at_once_wait_for_each_other",
    ),
    "request id not unique": Mutant(
        SLOTS,
        "CREATE UNIQUE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, unique_key);",
        "CREATE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, unique_key);",
        "test_i7_a_request_sent_twice_at_once_is_one_claim",
    ),
    "batch ignores a duplicate request": Mutant(
        CLAIMS,
        """intake_private.unique_key_of(CASE WHEN pool.claims_per_user IS NOT NULL THEN u.part_no END,
                    u.part_no::int, c.request_id), CASE""",
        "NULL, CASE",
        "test_i7_a_batch_answers_a_request_as_it_did_before",
    ),
    "released request forgotten": Mutant(
        STATUS_AND_RELEASE,
        "    RETURN 'released';\nEND $$;\n",
        """    DELETE FROM intake.claimed_slots cs WHERE cs.claim_id = release_claim.claim_id;
    RETURN 'released';
END $$;
""",
        "test_i7_a_retry_of_a_released_claim_gets_the_first_answer",
    ),
    "window before the retry": Mutant(
        CLAIM_STEPS,
        "        IF claim_slots.request_id IS NOT NULL AND last_key",
        "        IF claim_slots.request_id IS NOT NULL AND intake_private.closed_reason(pool, at) IS NULL AND last_key",
        "test_i7_a_retry_gets_the_first_answer_whatever_has_happened_since",
    ),
    "window by the transaction's clock": Mutant(
        CLAIMS,
        """    at                timestamptz := clock_timestamp();
    in_pool           int;""",
        """    at                timestamptz := now();
    in_pool           int;""",
        "test_the_window_closes_on_transactions_that_began_before_it",
    ),
    "sold out when only locked": Mutant(
        CLAIM_STEPS,
        "                verdict := 'busy';",
        "                verdict := 'sold_out';",
        "test_busy_and_not_sold_out_while_the_last_slot_may_still_return",
    ),
    "sold out for good": Mutant(
        CLAIMS,
        """p.sold_out
                AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = in_pool)""",
        "p.sold_out",
        "test_sold_out_only_after_the_last_slot_and_open_again_when_one_returns",
    ),
    "a request keeps part of its slots when there are too few": Mutant(
        CLAIM_STEPS,
        """        IF cardinality(numbers) < quantity THEN
            -- One snapshot""",
        """        quantity := least(quantity, greatest(cardinality(numbers), 1));
        IF cardinality(numbers) < quantity THEN
            -- One snapshot""",
        "test_several_seats_are_all_or_nothing",
    ),
    "named seat stays on the free list": Mutant(
        CLAIM_STEPS,
        "            DELETE FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = ANY (named);\n",
        "",
        "test_a_named_seat_leaves_the_free_list",
    ),
    "a drawn number stays on the free list": Mutant(
        CLAIMS,
        "                    IF by_name THEN\n",
        "                    IF false THEN\n",
        "test_i6_a_seat_given_back_before_the_sequence_reached_it_is_free_once",
    ),
    "burnt numbers taken from running claims": Mutant(
        NUMBERS,
        "            IF intake_private.transactions_on_pools() && progress.blockers THEN",
        "            IF false THEN",
        "test_a_running_claims_number_is_not_burnt",
    ),
    "burnt numbers lost": Mutant(
        NUMBERS,
        "        EXIT WHEN cardinality(progress.undecided) = 0 OR cardinality(progress.blockers) > 0;",
        "        progress.undecided := '{}'; EXIT;",
        "test_an_aborted_claim_leaves_no_trace_and_its_number_comes_back",
    ),
    "release frees what a bridge has read": Mutant(
        STATUS_AND_RELEASE,
        "    ELSIF intent.read_ct > 0 THEN",
        "    ELSIF false THEN",
        "test_i8_a_claim_that_a_bridge_has_read_is_free_when_the_ledger_says_so",
    ),
    "seat looked up as it is written": Mutant(
        CLAIMS,
        "s.label = normalize(seat, NFC);",
        "s.label = seat;",
        "test_a_seat_is_found_however_its_letters_are_composed",
    ),
    "a repeated key with another payload is answered replayed": Mutant(
        CLAIM_STEPS,
        "<> coalesce(payload, 'null') THEN 'payload' END;",
        "<> coalesce(payload, 'null') THEN NULL END;",
        "test_i13_payloads_differ_by_what_they_say",
    ),
    "payloads are compared as texts": Mutant(
        CLAIM_STEPS,
        "message -> 'payload') <> coalesce(payload, 'null') THEN",
        "message -> 'payload')::text <> coalesce(payload, 'null')::text THEN",
        "test_i13_payloads_are_the_same_by_what_they_say",
    ),
    "no payload is any payload": Mutant(
        CLAIM_STEPS,
        "message -> 'payload') <> coalesce(payload, 'null') THEN",
        "message -> 'payload') <> payload THEN",
        "test_i13_payloads_differ_by_what_they_say",
    ),
    "a repeat is compared with the payload that was confirmed": Mutant(
        CLAIM_STEPS,
        "coalesce(message -> 'first_payload', message -> 'payload')",
        "(message -> 'payload')",
        "test_i13_a_claim_is_repeated_with_its_own_payload_after_another_was_confirmed",
    ),
    "a repeat may name other seats": Mutant(
        CLAIM_STEPS,
        "            <> ARRAY(SELECT n FROM unnest(named) n ORDER BY 1) THEN 'seats'",
        "            <> ARRAY(SELECT n FROM unnest(named) n ORDER BY 1) THEN NULL",
        "test_i13_a_repeat_with_other_content_is_refused_whatever_became_of_the_claim",
    ),
    "a different request in a batch is answered replayed": Mutant(
        CLAIM_STEPS,
        "                verdict := CASE WHEN differs IS NULL THEN 'replayed' ELSE 'different' END;",
        "                verdict := 'replayed';",
        "test_i13_in_a_batch_only_the_caller_with_other_content_is_told",
    ),
    "a claim in a batch keeps the slots it got": Mutant(
        CLAIMS,
        "c.parts = i.got IS TRUE AS claimed",
        "i.got > 0 IS TRUE AS claimed",
        "test_a_claim_in_a_batch_has_all_its_slots_or_leaves_none",
    ),
    "what a claim in a batch got is not given back": Mutant(
        NUMBERS,
        "        AND cs.claim_id = give_numbers_back.claim_id;\n",
        "        AND false;\n",
        "test_a_claim_in_a_batch_has_all_its_slots_or_leaves_none",
    ),
    "the limit counts claims": Mutant(
        CLAIM_STEPS,
        "        IF live + quantity > pool.claims_per_user THEN",
        "        IF live >= pool.claims_per_user THEN",
        "test_the_limit_counts_slots",
    ),
    "a batch overlooks the limit": Mutant(
        CLAIMS,
        "                AND coalesce(a.quantity, 1) <= coalesce(pool.claims_per_user, 100)\n",
        "",
        "test_the_limit_counts_slots",
    ),
    "only the first taken seat is told": Mutant(
        CLAIM_STEPS,
        "            SELECT array_agg(u ORDER BY u) INTO took FROM unnest(named) u",
        "            SELECT nullif(ARRAY[min(u)], ARRAY[NULL]::bigint[]) INTO took FROM unnest(named) u",
        "test_seats_are_taken_all_or_none_and_those_that_are_taken_are_named",
    ),
    "any JSON is a payload": Mutant(
        CLAIM_STEPS,
        "    IF kind <> 'object' THEN",
        "    IF false THEN",
        "test_a_payload_is_an_object_or_nothing",
    ),
    "seats are locked in the order of their names": Mutant(
        CLAIM_STEPS,
        "SELECT pool.pool_no, u FROM unnest(named) u ORDER BY u\n",
        "SELECT pool.pool_no, u FROM unnest(named) u\n",
        "test_seats_are_locked_in_one_order_however_they_are_named",
    ),
    "the keys of a user follow the names": Mutant(
        CLAIM_STEPS,
        "unique_key_of(last_key + u.n, u.n::int,",
        "unique_key_of(last_key + coalesce(array_position(named, u.slot_no), u.n), u.n::int,",
        "test_the_keys_of_a_user_have_the_order_of_the_slots",
    ),
    "a payload of any size": Mutant(
        CLAIM_STEPS,
        "    ELSIF bytes > most_bytes THEN",
        "    ELSIF false THEN",
        "test_a_payload_has_a_limit_that_can_be_changed",
    ),
}
