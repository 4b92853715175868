"""The mutants: one textual change of a SQL file each, and the tests that must fail on it.

Each is a mistake that somebody has made, or would make while "simplifying". A change that no longer applies is an
error, so that this list cannot rot.
"""

from tests.sql.mutants.mutant import Mutant
from tests.sql.mutants.standby_and_batches import REFUSED_BATCHES, STANDBY

ROLES = "0001_roles_and_schema.sql"
CONFIGURATION = "0002_configuration.sql"
SLOTS = "0003_slots.sql"
CLAIMS = "0004_claims.sql"
BRIDGE = "0005_bridge.sql"
HOUSEKEEPING = "0007_housekeeping.sql"
METER = "0008_rate_limit.sql"
RESTORE = "0009_restore.sql"
SEAL = "0010_seal.sql"

# What an insert of a hold must not do when its slot is taken.
OVERWRITE = """ON CONFLICT (pool_no, slot_no) DO UPDATE SET claim_id = excluded.claim_id, user_id = excluded.user_id,
                request_id = excluded.request_id, turn = excluded.turn, msg_id = excluded.msg_id"""


MUTANTS = {
    **STANDBY,
    **REFUSED_BATCHES,
    # The reference implementation's shape: update by position without a look at what is there.
    "taken slot overwritten": Mutant(
        CLAIMS,
        """                    first_turn, 'R', at)
                ON CONFLICT DO NOTHING""",
        """                    first_turn, 'R', at)
                """
        + OVERWRITE,
        "test_a_number_that_is_held_already_is_never_sold_again",
    ),
    # The same in a batch, where the sequence gives many positions at once.
    "batch by position without a look": Mutant(
        CLAIMS,
        """            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.*)""",
        "            "
        + OVERWRITE
        + """
            RETURNING claimed_slots.*)""",
        "test_a_batch_passes_by_numbers_that_are_held",
    ),
    # And for seats by name, where everybody wants the same position.
    "named seat overwritten": Mutant(
        CLAIMS,
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
        """                    VALUES (msg_id, at, intake.intent(claim_resource.claim_id, claim_resource.pool_id,
                        claim_resource.user_id, claim_resource.request_id, 1, claim_resource.slot_no,
                        claim_resource.resource_id, at), intake.headers_of(claim_resource.traceparent));""",
        """                    SELECT msg_id, at, intake.intent(claim_resource.claim_id, claim_resource.pool_id,
                        claim_resource.user_id, claim_resource.request_id, 1, claim_resource.slot_no,
                        claim_resource.resource_id, at), NULL WHERE false;""",
        "test_an_aborted_claim_leaves_no_trace_and_its_number_comes_back",
    ),
    "limit keyed by request id": Mutant(
        SLOTS,
        "CREATE UNIQUE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, turn);",
        "CREATE UNIQUE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, turn, request_id);",
        "test_two_claims_of_a_user_at_once_wait_for_each_other",
    ),
    "request id not unique": Mutant(
        SLOTS,
        "CREATE UNIQUE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, turn);",
        "CREATE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, turn);",
        "test_i7_a_request_sent_twice_at_once_is_one_claim",
    ),
    "batch ignores a duplicate request": Mutant(
        CLAIMS,
        "                t.user_id, t.request_id, 1, t.turn, 'R', at\n",
        "                t.user_id, t.request_id, 1, NULL, 'R', at\n",
        "test_i7_a_batch_answers_a_request_as_it_did_before",
    ),
    "voided request forgotten": Mutant(
        BRIDGE,
        "SET status = 'V', was_slot_no = h.slot_no, slot_no = -h.msg_id FROM ended e",
        "SET status = 'V', was_slot_no = h.slot_no, slot_no = -h.msg_id, request_id = NULL, turn = NULL FROM ended e",
        "test_i7_a_retry_of_a_voided_claim_does_not_claim_again",
    ),
    "released request forgotten": Mutant(
        CLAIMS,
        "    RETURN 'released';\n",
        """    DELETE FROM intake.claimed_slots h WHERE h.claim_id = release_claim.claim_id;
    RETURN 'released';
""",
        "test_i7_a_retry_of_a_released_claim_gets_the_first_answer",
    ),
    "window before the retry": Mutant(
        CLAIMS,
        "        IF claim_slots.request_id IS NOT NULL THEN\n",
        "        IF claim_slots.request_id IS NOT NULL AND intake.shut(pool, at) IS NULL THEN\n",
        "test_i7_a_retry_gets_the_first_answer_whatever_has_happened_since",
    ),
    "window by the transaction's clock": Mutant(
        CLAIMS,
        """    at         timestamptz := clock_timestamp();
    in_pool    int;""",
        """    at         timestamptz := now();
    in_pool    int;""",
        "test_the_window_closes_on_transactions_that_began_before_it",
    ),
    "sold out when only locked": Mutant(
        CLAIMS,
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
    "a party keeps part when there are too few": Mutant(
        CLAIMS,
        """        IF cardinality(hand) < quantity THEN
            -- One snapshot""",
        """        quantity := least(quantity, greatest(cardinality(hand), 1));
        IF cardinality(hand) < quantity THEN
            -- One snapshot""",
        "test_several_seats_are_all_or_nothing",
    ),
    "named seat stays on the free list": Mutant(
        CLAIMS,
        "            DELETE FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = named;\n",
        "",
        "test_a_named_seat_leaves_the_free_list",
    ),
    "ticket leaves its number on the free list": Mutant(
        CLAIMS,
        "                    IF by_name THEN\n",
        "                    IF false THEN\n",
        "test_i6_a_seat_given_back_before_its_ticket_came_is_free_once",
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
    "unfenced release": Mutant(
        BRIDGE,
        "SET read_ct = q.read_ct + 1, vt = clock_timestamp(),\n            headers = q.headers - 'worker',",
        "SET vt = clock_timestamp(),",
        "test_i9_a_release_takes_the_lease_away",
    ),
    "deliveries without an end not counted": Mutant(
        BRIDGE,
        "                    coalesce((q.headers ->> 'unended')::int, 0) + 1)",
        "                    coalesce((q.headers ->> 'unended')::int, 0))",
        "test_i2_after_three_deliveries_without_an_end_a_message_is_read_alone",
    ),
    "a death among others counts against each": Mutant(
        BRIDGE,
        """'{"alone": true, "unended": 0}'""",
        """'{"alone": true}'""",
        "test_i2_only_what_a_message_does_alone_brings_it_to_the_dead_letters",
    ),
    "a delivery that ended is still counted": Mutant(
        BRIDGE,
        "        headers = q.headers - ARRAY['worker', 'unended', 'alone'],\n",
        "        headers = q.headers - ARRAY['worker', 'alone'],\n",
        "test_a_message_that_was_given_back_is_counted_from_nought",
    ),
    "a released message keeps its dead worker": Mutant(
        BRIDGE,
        "            headers = q.headers - 'worker', -- that delivery ends here\n",
        "",
        "test_a_release_is_the_end_of_a_delivery",
    ),
    "a replay remembers how it died": Mutant(
        BRIDGE,
        "            r.headers - ARRAY['worker', 'unended', 'alone']",
        "            r.headers",
        "test_a_replay_of_a_message_that_no_bridge_outlived_begins_anew",
    ),
    "release frees what a bridge has read": Mutant(
        CLAIMS,
        "    ELSIF intent.read_ct > 0 THEN",
        "    ELSIF false THEN",
        "test_i8_a_claim_that_a_bridge_has_read_is_free_when_the_ledger_says_so",
    ),
    "replay forgets that a bridge has read it": Mutant(
        BRIDGE,
        "        SELECT r.queue_id, clock_timestamp(), 1, (r.message",
        "        SELECT r.queue_id, clock_timestamp(), 0, (r.message",
        "test_i8_a_replayed_dead_letter_is_released_through_the_ledger",
    ),
    "expiry by the clock alone": Mutant(
        HOUSEKEEPING,
        "    PERFORM intake.recall(config.pool_no, overdue, 'hold expired');",
        "    PERFORM intake.archive(config.pool_id, overdue, array_fill('voided'::text, ARRAY[cardinality(overdue)]));",
        "test_i8_an_expired_hold_is_free_when_the_ledger_has_voided_it",
    ),
    "expiry waits for a claim that is always tried again first": Mutant(
        HOUSEKEEPING,
        "            AND (q.vt <= clock_timestamp() OR q.headers ->> 'worker' IS NULL)",
        "            AND q.vt <= clock_timestamp()",
        "test_a_hold_that_waits_for_its_next_try_expires",
    ),
    "discard of somebody else's letters": Mutant(
        BRIDGE,
        "        WHERE d.msg_id = ANY (discard.msg_ids) AND d.message ->> 'pool_id' = discard.pool_id",
        "        WHERE d.message ->> 'pool_id' = discard.pool_id",
        "test_the_audit_says_who_did_what_and_by_what_evidence_the_latest_first",
    ),
    "remembered position": Mutant(
        BRIDGE,
        "        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND",
        """        WHERE q.msg_id > coalesce((SELECT max(a.msg_id) FROM pgmq.a_intake_queue a), 0)
            AND q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND""",
        "test_a_message_that_is_committed_late_is_not_passed_over",
    ),
    "reader walks over what is leased": Mutant(
        BRIDGE,
        "        ORDER BY q.vt LIMIT",
        "        ORDER BY q.msg_id LIMIT",
        "test_a_read_visits_what_it_takes_and_nothing_else",
    ),
    "voided slot kept": Mutant(
        BRIDGE,
        "        WHERE e.outcome <> 'committed' AND h.pool_no = e.pool_no",
        "        WHERE false AND h.pool_no = e.pool_no",
        "test_i8_an_acknowledged_claim_is_archived_and_its_slot_consumed_or_freed",
    ),
    "failure counted twice": Mutant(
        BRIDGE,
        "        headers = q.headers - ARRAY['worker', 'unended', 'alone'],\n",
        "",
        "test_a_failure_that_is_told_twice_is_counted_once",
    ),
    "replay starts over": Mutant(
        BRIDGE,
        """|| '{"failures": 0}',""",
        """|| '{"failures": 0, "state": "queued"}',""",
        "test_a_dead_letter_keeps_its_slot_and_its_state_until_it_is_replayed_once",
    ),
    "acknowledgement overlaps the rebuild": Mutant(
        SLOTS,
        "    PERFORM intake.lock_alone('intake.claimed_slots');\n",
        "",
        "test_an_acknowledgement_during_a_rebuild_is_not_lost",
    ),
    "seal without barrier": Mutant(
        SEAL,
        "    ended := intake.lock_alone('intake.pools');\n",
        "",
        "test_i2_seal_waits_for_running_claims_and_lets_none_pass_it",
    ),
    "everybody waits behind the seal": Mutant(
        SEAL,
        "SET lock_timeout = '100ms'",
        "SET lock_timeout = '30s'",
        "test_i2_is_ended_by_the_seal_while_others_read",
    ),
    "whoever holds up the seal is ended": Mutant(
        SEAL,
        "IF holder.claimer AND waited",
        "IF waited",
        "test_what_others_hold_is_told_and_left_alone",
    ),
    "dead letters hold nothing": Mutant(
        SLOTS,
        "FROM intake.intents x WHERE x.message ->> 'pool_id' = config.pool_id\n",
        "FROM intake.intents x WHERE x.message ->> 'pool_id' = config.pool_id AND x.place <> 'dead'\n",
        "test_i6_a_rebuild_restores_every_hold_and_every_resource_id",
    ),
    "rebuild takes ids anew": Mutant(
        SLOTS,
        "SELECT v.pool_no, v.slot_no, v.resource_id, v.label FROM intake.inventory v",
        "SELECT v.pool_no, v.slot_no, gen_random_uuid(), v.label FROM intake.inventory v",
        "test_a_rebuild_gives_seats_of_ones_own_their_ids_and_labels",
    ),
    "label stocked as it is written": Mutant(
        SLOTS,
        "SELECT normalize(l.label, NFC) FROM",
        "SELECT l.label FROM",
        "test_one_label_in_other_code_points_is_there_twice",
    ),
    "seat looked for as it is written": Mutant(
        CLAIMS,
        "s.label = normalize(claim_seat.seat, NFC);",
        "s.label = claim_seat.seat;",
        "test_a_seat_is_found_however_its_letters_are_composed",
    ),
    "look-alike stocked": Mutant(
        SLOTS,
        "ELSE substring(label FROM",
        "ELSE substring('' FROM",
        "test_a_label_with_a_character_that_nobody_sees_is_refused",
    ),
    "label may be another's id": Mutant(
        SLOTS,
        "    IF either IS NOT NULL THEN",
        "    IF false THEN",
        "test_no_label_is_the_id_of_another_slot",
    ),
    "metrics are kept for ever": Mutant(
        HOUSEKEEPING,
        "o.at < long_ago ORDER BY",
        "o.at < '-infinity' ORDER BY",
        "test_an_event_of_weeks_has_no_more_rows_than_one_of_an_hour",
    ),
    "everybody may execute": Mutant(
        "0001_roles_and_schema.sql",
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;",
        "",
        "test_a_role_calls_its_functions_and_no_other",
    ),
    "plans from an empty table": Mutant(
        SLOTS,
        "    PERFORM pg_clear_relation_stats('intake', 'claimed_slots');",
        "    ANALYZE intake.claimed_slots;",
        "test_a_plan_made_for_an_empty_pool_is_good_for_a_full_one",
    ),
    "tokens on lease are not in the bucket": Mutant(
        METER,
        "        - (SELECT coalesce(sum(l.tokens), 0) FROM unnest(meter.leases) l);",
        "        - 0;",
        "test_i10_a_slow_call_keeps_the_bucket_from_filling",
    ),
    "tokens of the dead never come back": Mutant(
        METER,
        "        FROM unnest(meter.leases) l WHERE l.until > at);",
        "        FROM unnest(meter.leases) l);",
        "test_i10_holds_while_workers_die_with_tokens_in_hand",
    ),
    "tokens of the dead are handed on": Mutant(
        METER,
        "    meter.counted_at := at;",
        """    meter.tokens := meter.tokens
        + (SELECT coalesce(sum(l.tokens), 0) FROM unnest(meter.leases) l WHERE l.until <= at);
    meter.counted_at := at;""",
        "test_i10_tokens_of_a_dead_worker_come_back_once",
    ),
    "meter without a lock": Mutant(
        METER,
        """    SELECT m.* INTO meter FROM intake.token_buckets m WHERE m.pool_no = config.pool_no FOR UPDATE;
    IF NOT FOUND THEN""",
        """    SELECT m.* INTO meter FROM intake.token_buckets m WHERE m.pool_no = config.pool_no;
    IF NOT FOUND THEN""",
        "test_i10_two_who_ask_at_once_share_one_bucket",
    ),
    "a crash forgets what is out": Mutant(
        METER,
        "        PERFORM intake.open_bucket(config, false);",
        "        PERFORM intake.open_bucket(config, true);",
        "test_i10_a_crash_gives_nothing_away",
    ),
    "whoever asks first gets all": Mutant(
        METER,
        "THEN least(wanted, portion) ELSE 0 END;",
        "THEN least(wanted, floor(meter.tokens)::int) ELSE 0 END;",
        "test_a_lease_is_at_most_half_of_the_bucket",
    ),
    "settled as a whole": Mutant(
        METER,
        "        IF settled >= mine.tokens THEN",
        "        IF settled > 0 THEN",
        "test_i10_what_has_not_ended_stays_out_for_another_lease",
    ),
    # Two seats of one request would have the same turn, and only one of them a hold.
    "restored seat sold again": Mutant(
        RESTORE,
        "    PERFORM intake.tell_seats(config.pool_id);\n",
        "",
        "test_i1_what_the_ledger_has_sold_is_not_sold_again",
    ),
    "voided claim restored as committed": Mutant(
        RESTORE,
        "                'outcome', p.state)",
        "                'outcome', 'committed')",
        "test_a_voided_claim_is_restored_as_voided",
    ),
    "restore drops the request": Mutant(
        RESTORE,
        "config.pool_id, p.user_id, p.request_id, 1,",
        "config.pool_id, p.user_id, NULL, 1,",
        "test_i7_who_asks_again_gets_the_first_answer",
    ),
    "restored over a sale": Mutant(
        RESTORE,
        "    IF config.epoch > 0 THEN",
        "    IF false THEN",
        "test_only_a_new_pool_is_restored",
    ),
    "seeded between two pages": Mutant(
        RESTORE,
        "    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);\n",
        "",
        "test_nobody_seeds_between_two_pages",
    ),
    "restored into another inventory": Mutant(
        RESTORE,
        "AND p.told_resource IS DISTINCT FROM p.resource_id",
        "AND false",
        "test_another_inventory_than_was_sold_from_is_refused",
    ),
    "tickets walk over what was restored": Mutant(
        RESTORE,
        "    PERFORM setval(intake.tickets(config.pool_no), intake.tickets_passed(config.pool_id));\n",
        "",
        "test_nobody_walks_over_what_is_sold",
    ),
    "advisory locks left to everybody": Mutant(
        ROLES,
        "        'pg_advisory_unlock_all', ",
        "        'pg_advisory_unlock_all', 'pg_advisory_xact_lock', ",
        "test_everybody_may_call_what_was_reviewed_and_nothing_else",
    ),
    "own password overlooked": Mutant(
        ROLES,
        "    WHERE a.rolcanlogin AND encode(sha256(a.rolpassword::bytea), 'hex') = l.verifier;\n",
        "    WHERE a.rolcanlogin;\n",
        "test_a_password_that_a_role_gave_itself_is_noticed",
    ),
    "own settings for one database overlooked": Mutant(
        ROLES,
        "        EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', reset_role.role_name, place);\n",
        "        NULL;\n",
        "test_a_limit_that_a_claimer_took_off_its_role_comes_back",
    ),
    "sessions with wrong settings live on": Mutant(
        ROLES,
        "            AND a.backend_start >= coalesce(reset_role.since, '-infinity'));\n",
        "            AND false);\n",
        "test_sessions_that_began_with_wrong_settings_end_and_others_stay",
    ),
    "sessions with right settings end, too": Mutant(
        ROLES,
        "            AND a.backend_start >= coalesce(reset_role.since, '-infinity'));\n",
        "            );\n",
        "test_sessions_that_began_with_wrong_settings_end_and_others_stay",
    ),
    "configures overlap": Mutant(
        CONFIGURATION,
        "    PERFORM pg_advisory_xact_lock(hashtext('intake.configure'));\n",
        "",
        "test_configure_is_one_at_a_time",
    ),
    "claimers without limits left alone": Mutant(
        HOUSEKEEPING,
        "    PERFORM intake.end_overdue(); -- first: what follows may be blocked by such a session\n",
        "",
        "test_housekeeping_ends_claimers_that_lift_their_time_limits",
    ),
    "claimers define what they like": Mutant(
        ROLES,
        "    IF NOT pg_catalog.has_schema_privilege(current_user, 'intake', 'CREATE') THEN",
        "    IF false THEN",
        "test_a_claimer_that_defines_something_is_refused_before_it_waits_for_a_lock",
    ),
    "who waits for the database is let wait": Mutant(
        HOUSEKEEPING,
        "l.locktype IN ('relation', 'object')",
        "l.locktype = 'relation'",
        "test_a_claimer_that_waits_for_the_database_alone_is_ended_and_logins_go_on",
    ),
    "everybody's transactions ended": Mutant(
        HOUSEKEEPING,
        " AND NOT r.rolsuper AND pg_has_role(r.oid, 'claimer', 'MEMBER')",
        " AND NOT r.rolsuper",
        "test_housekeeping_ends_claimers_that_lift_their_time_limits",
    ),
}
