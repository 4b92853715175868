"""Mutants of what is told where a standby waits, and of batches that are refused."""

from tests.sql.mutants.mutant import Mutant

CLAIMS = "0004_claims.sql"

STANDBY = {
    "a retry overtakes the standby": Mutant(
        CLAIMS,
        """                PERFORM intake.tell();
                verdict := 'replayed';""",
        "                verdict := 'replayed';",
        "test_i7_a_retry_is_answered_when_the_standby_has_its_claim",
    ),
    "a look overtakes the standby": Mutant(
        CLAIMS,
        "        PERFORM pg_logical_emit_message(true, 'intake', 'told');\n",
        "",
        "test_i2_where_a_claim_stands_is_told_when_the_standby_knows",
    ),
    "local is as good as on": Mutant(
        CLAIMS,
        "= 'local' AND current_setting('synchronous_standby_names') = '';",
        "= 'local';",
        "test_i2_nothing_is_answered_where_a_commit_does_not_wait_for_the_standby",
    ),
    "a status in two looks": Mutant(
        CLAIMS,
        """CREATE FUNCTION intake.state_of(hold intake.claimed_slots) RETURNS text
LANGUAGE sql STABLE""",
        """CREATE FUNCTION intake.state_of(hold intake.claimed_slots) RETURNS text
LANGUAGE sql VOLATILE""",
        "test_a_claim_that_ends_while_its_status_is_asked_is_not_taken_for_dead",
    ),
}

_LOOK = """        SELECT min(p.word), array_agg(a.n) INTO word, took
        FROM (SELECT p.pool_no, p.claims_per_user, coalesce(intake.shut(p, at), CASE
                WHEN p.sold_out AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
                THEN 'sold_out' END) AS word
            FROM intake.pools p WHERE p.pool_id = claim_batch.pool_id OFFSET 0) p
        CROSS JOIN unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
        WHERE p.word IS NOT NULL AND """

REFUSED_BATCHES = {
    # Who holds something, and then what is free: a number that changes hands in between is in neither.
    "sold-out batch in two snapshots": Mutant(
        CLAIMS,
        _LOOK,
        """        took := ARRAY(
            SELECT a.n FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
            WHERE (SELECT h.claim_id FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no
                AND h.user_id = a.user_id AND h.turn = a.request_id || '/1') IS NULL);
"""
        + _LOOK
        + "a.n = ANY (took) OR ",
        "test_the_last_slot_and_its_new_owner_are_seen_at_one_instant",
    ),
    "sold-out batch forgets its winners": Mutant(
        CLAIMS,
        """            a.request_id)) IS NULL;
        RETURN QUERY SELECT t, word""",
        """            a.request_id)) IS NULL OR p.word IS NOT NULL;
        RETURN QUERY SELECT t, word""",
        "test_i7_a_winner_who_asks_again_hears_so_among_the_losers",
    ),
    "batch sold out for good": Mutant(
        CLAIMS,
        """ AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
                THEN""",
        " THEN",
        "test_a_batch_after_the_last_slot_gets_what_has_come_back",
    ),
}
