-- What a bridge reports about the messages that it has leased.
--
-- For bridge: mark_validated, mark_committing, extend, give_back, acknowledge, dead_letter. All take the lease, msg_ids
-- and read_cts, as read_batch() returned it, and return the msg_ids that they changed (0010_read.sql).

CREATE FUNCTION intake_private.bounded(what jsonb, max_bytes int) RETURNS jsonb
LANGUAGE sql STABLE STRICT
RETURN CASE WHEN octet_length(what::text) <= max_bytes THEN what ELSE '{"truncated": true}' END;
COMMENT ON FUNCTION intake_private.bounded IS
    'What a validator or a ledger added to a claim, or {"truncated": true} if its text has more bytes than this: '
    'neither an approval nor a sale fails for it.';

CREATE FUNCTION intake.mark_validated(pool_id text, msg_ids bigint[], read_cts int[], validations jsonb[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(mark_validated.pool_id);
BEGIN
    IF cardinality(validations) <> cardinality(mark_validated.msg_ids) THEN
        RAISE EXCEPTION 'validations is parallel to msg_ids' USING ERRCODE = 'IE002',
            HINT = 'NULL for an approval without data.';
    END IF;
    RETURN QUERY
    WITH approved AS MATERIALIZED (
        SELECT l AS msg_id, nullif(v.validation, 'null') AS validation
        FROM intake_private.lock_leased(mark_validated.pool_id, mark_validated.msg_ids, mark_validated.read_cts) l
        LEFT JOIN unnest(mark_validated.msg_ids, validations) AS v (msg_id, validation) ON v.msg_id = l)
    UPDATE pgmq.q_intake_queue q SET message = q.message || '{"state": "validated"}' || CASE
        -- The first approval counts: its data may have been sent to the ledger already.
        WHEN a.validation IS NULL OR q.message ->> 'state' = 'validated' THEN '{}'
        WHEN jsonb_typeof(a.validation) <> 'object' THEN '{"validation": {"truncated": true}}'
        ELSE jsonb_build_object('validation', intake_private.bounded(a.validation, config.max_payload_bytes)) END
    FROM approved a
    WHERE q.msg_id = a.msg_id AND q.message ->> 'state' IN ('queued', 'validated')
    RETURNING q.msg_id;
END $$;
COMMENT ON FUNCTION intake.mark_validated IS
    'Record that the validator approved these messages, and what it added (validations, parallel to msg_ids, or '
    'NULL), before any commit is tried. What is no object, or larger than the maxPayloadBytes of the pool, is kept as '
    '{"truncated": true}. A message that is validated stays as it is. Returns the msg_ids whose lease was valid. '
    'Raises IE001 for an unknown pool, IE002 for arrays that are not parallel or where synchronous_commit is off.';

CREATE FUNCTION intake.mark_committing(pool_id text, msg_ids bigint[], read_cts int[]) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    UPDATE pgmq.q_intake_queue q SET message = q.message || '{"state": "committing"}'
    WHERE q.msg_id IN (SELECT intake_private.lock_leased(mark_committing.pool_id, mark_committing.msg_ids,
    mark_committing.read_cts)) RETURNING q.msg_id;
$$;
COMMENT ON FUNCTION intake.mark_committing IS
    'Record that a commit may have been tried at a ledger that cannot be fenced: from here on a claim is committed or '
    'becomes a dead letter. Returns the msg_ids whose lease was valid. Raises IE001 for an unknown pool, IE002 for '
    'arrays that are not parallel or where synchronous_commit is off.';

CREATE FUNCTION intake.extend(pool_id text, msg_ids bigint[], read_cts int[]) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    UPDATE pgmq.q_intake_queue q SET vt = clock_timestamp() + make_interval(
        secs => (intake_private.config_of(extend.pool_id)).visibility_timeout_seconds)
    WHERE q.msg_id IN (SELECT intake_private.lock_leased(extend.pool_id, extend.msg_ids, extend.read_cts))
    RETURNING q.msg_id;
$$;
COMMENT ON FUNCTION intake.extend IS
    'Renew leases for another visibility timeout from now. Returns the msg_ids whose lease was valid. Raises IE001 for '
    'an unknown pool, IE002 for arrays that are not parallel or where synchronous_commit is off.';

CREATE FUNCTION intake.give_back(pool_id text, msg_ids bigint[], read_cts int[], delays_seconds float8[], errors text[])
RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    IF cardinality(give_back.delays_seconds) IS DISTINCT FROM cardinality(give_back.msg_ids)
            OR cardinality(give_back.errors) IS DISTINCT FROM cardinality(give_back.msg_ids) THEN
        RAISE EXCEPTION 'delays_seconds and errors are parallel to msg_ids' USING ERRCODE = 'IE002',
            HINT = 'An error of NULL is not counted as a failure of the message.';
    END IF;
    RETURN QUERY
    WITH leased AS MATERIALIZED (
        SELECT l AS msg_id FROM intake_private.lock_leased(give_back.pool_id, give_back.msg_ids, give_back.read_cts) l),
    no_longer_quarantined AS (
        DELETE FROM intake.quarantine l USING leased WHERE l.msg_id = leased.msg_id)
    -- This ends the lease: a repeated call, because the first reply was lost, must not count the failure twice.
    UPDATE pgmq.q_intake_queue q SET vt = clock_timestamp() + make_interval(secs => coalesce(g.delay, 0)),
        headers = q.headers - ARRAY['worker', 'unfinished', 'quarantined'],
        message = CASE WHEN g.error IS NULL THEN q.message ELSE q.message || jsonb_build_object(
            'failures', (q.message ->> 'failures')::int + 1, 'last_error', left(g.error, 2000)) END
    FROM leased JOIN unnest(give_back.msg_ids, give_back.delays_seconds, give_back.errors) AS g (msg_id, delay, error)
        USING (msg_id)
    WHERE q.msg_id = leased.msg_id
    RETURNING q.msg_id;
END $$;
COMMENT ON FUNCTION intake.give_back IS
    'Return messages to the queue, visible after a delay in seconds. An error counts as one failure of its message; '
    'NULL does not count. Ends the lease. Returns the msg_ids whose lease was valid. Raises IE001 for an unknown pool, '
    'IE002 for arrays that are not parallel or where synchronous_commit is off.';

CREATE FUNCTION intake_private.record_outcomes(pool_id text, slot_nos bigint[], claim_ids uuid[], outcomes text[])
RETURNS void
LANGUAGE sql AS $$
    WITH ended AS (
        SELECT c.pool_no, e.*
        FROM unnest(record_outcomes.slot_nos, record_outcomes.claim_ids, record_outcomes.outcomes) AS e (slot_no,
            claim_id, outcome)
        JOIN intake.engine_config c ON c.pool_id = record_outcomes.pool_id),
    consumed AS (
        UPDATE intake.claimed_slots cs SET status = 'C' FROM ended e
        WHERE e.outcome = 'committed' AND cs.pool_no = e.pool_no AND cs.slot_no = e.slot_no
            AND cs.claim_id = e.claim_id),
    voided AS (
        UPDATE intake.claimed_slots cs SET status = 'V', was_slot_no = cs.slot_no,
            slot_no = intake_private.voided_key(cs.msg_id, cs.part_no)
        FROM ended e
        WHERE e.outcome <> 'committed' AND cs.pool_no = e.pool_no AND cs.slot_no = e.slot_no
            AND cs.claim_id = e.claim_id
        RETURNING cs.pool_no, cs.was_slot_no)
    INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT v.pool_no, v.was_slot_no FROM voided v
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION intake_private.record_outcomes IS
    'Record the outcomes of settled claims in their slots, one element for each slot: committed consumes it, any other '
    'outcome frees it.';

CREATE FUNCTION intake_private.archive(pool_id text, locked bigint[], msg_ids bigint[], outcomes text[],
    receipts jsonb[] DEFAULT NULL, remark jsonb DEFAULT '{}') RETURNS bigint[]
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ended     bigint[];
    slot_nos  bigint[];
    claim_ids uuid[];
    given     text[];
BEGIN
    WITH deleted AS (
        DELETE FROM pgmq.q_intake_queue q
        USING unnest(archive.msg_ids, archive.outcomes, archive.receipts) AS o (msg_id, outcome, receipt)
        WHERE q.msg_id = o.msg_id AND q.msg_id = ANY (archive.locked)
        RETURNING q.*, o.outcome, o.receipt),
    archived AS (
        INSERT INTO pgmq.a_intake_queue (msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers)
        SELECT g.msg_id, g.read_ct, g.enqueued_at, g.last_read_at, g.vt,
            g.message || archive.remark || CASE WHEN g.outcome = 'committed' AND g.receipt <> 'null'
                THEN jsonb_build_object('outcome', g.outcome, 'receipt', intake_private.bounded(g.receipt, 2048))
                ELSE jsonb_build_object('outcome', g.outcome) END,
            g.headers
        FROM deleted g),
    no_longer_released AS (
        DELETE FROM intake.releases r USING deleted g WHERE r.msg_id = g.msg_id AND g.message ? 'release'),
    no_longer_quarantined AS (
        DELETE FROM intake.quarantine l USING deleted g WHERE l.msg_id = g.msg_id AND g.headers ? 'quarantined'),
    slot AS (
        SELECT (s.seat ->> 'slot_no')::bigint AS slot_no, (g.message ->> 'claim_id')::uuid AS claim_id, g.outcome
        FROM deleted g CROSS JOIN LATERAL jsonb_array_elements(g.message -> 'seats') AS s (seat))
    SELECT (SELECT array_agg(g.msg_id) FROM deleted g), array_agg(s.slot_no), array_agg(s.claim_id),
        array_agg(s.outcome)
    INTO ended, slot_nos, claim_ids, given FROM slot s;
    PERFORM intake_private.record_outcomes(archive.pool_id, slot_nos, claim_ids, given);
    RETURN ended;
END $$;
COMMENT ON FUNCTION intake_private.archive IS
    'Archive those of the messages that the caller has locked, each with its outcome, its receipt (at most 2048 bytes) '
    'and the remark added, and record the outcomes in their slots. Returns the msg_ids that it archived.';

CREATE FUNCTION intake.acknowledge(pool_id text, msg_ids bigint[], read_cts int[], outcomes text[],
    receipts jsonb[] DEFAULT NULL) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    leased bigint[];
BEGIN
    IF cardinality(acknowledge.outcomes) IS DISTINCT FROM cardinality(acknowledge.msg_ids)
            OR cardinality(acknowledge.receipts) <> cardinality(acknowledge.msg_ids)
            OR EXISTS (SELECT FROM unnest(acknowledge.outcomes) o WHERE (o IN ('committed', 'voided')) IS NOT TRUE) THEN
        RAISE EXCEPTION 'outcomes is parallel to msg_ids, each committed or voided, and so is receipts'
            USING ERRCODE = 'IE002',
            HINT = 'Give duplicate as committed; move a conflict to the dead letters with dead_letter().';
    END IF;
    -- Before the first snapshot: while seed() rebuilds the claimed slots this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    leased := ARRAY(SELECT intake_private.lock_leased(acknowledge.pool_id, acknowledge.msg_ids,
        acknowledge.read_cts));
    RETURN QUERY SELECT unnest(intake_private.archive(acknowledge.pool_id, leased, acknowledge.msg_ids,
        acknowledge.outcomes, acknowledge.receipts));
END $$;
COMMENT ON FUNCTION intake.acknowledge IS
    'Record the answers of the ledger (committed or voided), with its receipts (parallel to msg_ids, or NULL): '
    'archive the messages, and consume or free the slots of their claims, in one transaction. Only a committed claim '
    'has a receipt, and one of more than 2048 bytes is kept as {"truncated": true}. Returns the msg_ids whose lease '
    'was valid. Raises IE001 for an unknown pool, IE002 for another outcome, for arrays that are not parallel, or '
    'where synchronous_commit is off.';

CREATE FUNCTION intake_private.move_to_dead_letters(msg_ids bigint[], reasons text[],
    conflicts boolean[] DEFAULT NULL) RETURNS SETOF bigint
LANGUAGE sql AS $$
    WITH deleted AS (
        DELETE FROM pgmq.q_intake_queue q USING unnest(move_to_dead_letters.msg_ids, move_to_dead_letters.reasons,
            move_to_dead_letters.conflicts) AS r (msg_id, reason, conflict)
        WHERE q.msg_id = r.msg_id AND q.msg_id = ANY (move_to_dead_letters.msg_ids)
        RETURNING q.*, r.reason, r.conflict),
    no_longer_released AS (
        DELETE FROM intake.releases r USING deleted g WHERE r.msg_id = g.msg_id),
    no_longer_quarantined AS (
        DELETE FROM intake.quarantine l USING deleted g WHERE l.msg_id = g.msg_id),
    letters AS (
        INSERT INTO pgmq.q_intake_dlq (vt, message, headers)
        SELECT clock_timestamp(), g.message || CASE WHEN g.conflict THEN '{"conflict": true}' ELSE '{}' END::jsonb
            || jsonb_build_object('reason', left(g.reason, 2000),
            'dead_at', clock_timestamp(), 'queued_as', g.msg_id), g.headers
        FROM deleted g ORDER BY g.msg_id)
    SELECT g.msg_id FROM deleted g;
$$;
COMMENT ON FUNCTION intake_private.move_to_dead_letters IS
    'Move messages that the caller has locked to the dead letters, each with its reason, and with whether the ledger '
    'has given a slot of the claim to another sale. Returns their msg_ids.';

CREATE FUNCTION intake.dead_letter(pool_id text, msg_ids bigint[], read_cts int[], reasons text[],
    conflicts boolean[] DEFAULT NULL) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    leased bigint[];
    why    text[];
    theirs boolean[]; -- the slot belongs to another sale
BEGIN
    IF cardinality(dead_letter.reasons) IS DISTINCT FROM cardinality(dead_letter.msg_ids)
            OR cardinality(dead_letter.conflicts) <> cardinality(dead_letter.msg_ids) THEN
        RAISE EXCEPTION 'reasons is parallel to msg_ids, and conflicts too, or NULL'
            USING ERRCODE = 'IE002', HINT = 'Give one reason for each message.';
    END IF;
    SELECT array_agg(l), array_agg(r.reason), array_agg(r.conflict) INTO leased, why, theirs
    FROM intake_private.lock_leased(dead_letter.pool_id, dead_letter.msg_ids, dead_letter.read_cts) l
    JOIN unnest(dead_letter.msg_ids, dead_letter.reasons, dead_letter.conflicts) AS r (msg_id, reason, conflict)
        ON r.msg_id = l;
    RETURN QUERY SELECT * FROM intake_private.move_to_dead_letters(leased, why, theirs);
END $$;
COMMENT ON FUNCTION intake.dead_letter IS
    'Give messages up, each for a reason (cut at 2000 characters). A claim keeps its slots until its dead letter is '
    'replayed or discarded. conflicts (parallel to msg_ids, or NULL) says which of them the ledger answered with '
    'conflict: a slot belongs to another sale, so discard() keeps it off sale. Returns the msg_ids whose lease was '
    'valid. Raises IE001 for an unknown pool, IE002 for arrays that are not parallel or where synchronous_commit is '
    'off.';

GRANT EXECUTE ON FUNCTION intake.mark_validated, intake.mark_committing, intake.extend, intake.give_back,
    intake.acknowledge, intake.dead_letter TO bridge;
