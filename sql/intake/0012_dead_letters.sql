-- What people do with dead letters, and the record of what they did.
--
-- For bridge: replay, discard. For bridge and monitor: dead_letters. For monitor: audit_log. For the operator:
-- dead_letter_payloads.

CREATE FUNCTION intake.dead_letters(pool_id text, max_letters int DEFAULT 100, after bigint DEFAULT 0,
    msg_ids bigint[] DEFAULT NULL)
RETURNS TABLE (msg_id bigint, claim_id uuid, user_id text, seats jsonb, request_id text, state text, failures int,
    reason text, last_error text, dead_at timestamptz, claimed_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM intake_private.config_of(dead_letters.pool_id);
    RETURN QUERY
    SELECT d.msg_id, (d.message ->> 'claim_id')::uuid, d.message ->> 'user_id', d.message -> 'seats',
        d.message ->> 'request_id', d.message ->> 'state', (d.message ->> 'failures')::int, d.message ->> 'reason',
        d.message ->> 'last_error', (d.message ->> 'dead_at')::timestamptz, (d.message ->> 'claimed_at')::timestamptz
    FROM pgmq.q_intake_dlq d
    WHERE d.message ->> 'pool_id' = dead_letters.pool_id AND d.msg_id > dead_letters.after
        AND (dead_letters.msg_ids IS NULL OR d.msg_id = ANY (dead_letters.msg_ids))
    ORDER BY d.msg_id LIMIT dead_letters.max_letters;
END $$;
COMMENT ON FUNCTION intake.dead_letters IS
    'The dead letters of a pool by their own ids, oldest first: those after the id `after`, or those of them with '
    'these ids. seats is a JSON array, as read_batch() returns it. Without payloads: dead_letter_payloads(). Changes '
    'nothing. Raises IE001 for an unknown pool.';

CREATE FUNCTION intake_private.record_audit(pool_id text, action text, actor text, reason text, detail jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(record_audit.actor, '') = '' OR coalesce(record_audit.reason, '') = '' THEN
        RAISE EXCEPTION '% needs an actor and a reason', record_audit.action USING ERRCODE = 'IE002',
            HINT = 'Both are recorded in intake.audit.';
    END IF;
    PERFORM intake_private.config_of(record_audit.pool_id);
    INSERT INTO intake.audit (pool_id, action, actor, reason, detail)
    VALUES (record_audit.pool_id, record_audit.action, record_audit.actor, record_audit.reason, record_audit.detail);
END $$;
COMMENT ON FUNCTION intake_private.record_audit IS
    'Record an action in intake.audit. Raises IE001 for an unknown pool, IE002 without an actor and a reason.';

CREATE FUNCTION intake.dead_letter_payloads(pool_id text, msg_ids bigint[], actor text, reason text)
RETURNS TABLE (msg_id bigint, payload jsonb, validation jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM intake_private.record_audit(dead_letter_payloads.pool_id, 'show payloads', dead_letter_payloads.actor,
        dead_letter_payloads.reason, jsonb_build_object('asked', dead_letter_payloads.msg_ids));
    RETURN QUERY
    SELECT d.msg_id, nullif(d.message -> 'payload', 'null'), nullif(d.message -> 'validation', 'null')
    FROM pgmq.q_intake_dlq d
    WHERE d.message ->> 'pool_id' = dead_letter_payloads.pool_id AND d.msg_id = ANY (dead_letter_payloads.msg_ids)
    ORDER BY d.msg_id;
END $$;
COMMENT ON FUNCTION intake.dead_letter_payloads IS
    'What the caller and the validator have sent for the claims of these dead letters. It may be personal data, so '
    'only the owner may call this, and intake.audit records it. Raises IE001 for an unknown pool, IE002 without an '
    'actor and a reason.';

CREATE FUNCTION intake.replay(pool_id text, msg_ids bigint[], actor text, reason text) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    moved bigint[];
BEGIN
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    WITH replayed AS MATERIALIZED (
        DELETE FROM pgmq.q_intake_dlq d
        WHERE d.msg_id = ANY (replay.msg_ids) AND d.message ->> 'pool_id' = replay.pool_id
        RETURNING d.msg_id, d.message, d.headers, nextval('pgmq.q_intake_queue_msg_id_seq') AS queue_id),
    queued AS (
        -- read_ct 1: a bridge has read it, so release_claim() must not free its slots by itself.
        INSERT INTO pgmq.q_intake_queue (msg_id, vt, read_ct, message, headers) OVERRIDING SYSTEM VALUE
        SELECT r.queue_id, clock_timestamp(), 1,
            (r.message - ARRAY['reason', 'dead_at', 'queued_as', 'conflict']) || '{"failures": 0}',
            r.headers - ARRAY['worker', 'unfinished', 'quarantined']
        FROM replayed r),
    listed AS (
        INSERT INTO intake.releases (msg_id, pool_no) SELECT r.queue_id, c.pool_no
        FROM replayed r JOIN intake.engine_config c ON c.pool_id = replay.pool_id WHERE r.message ? 'release'),
    moved_claims AS (
        UPDATE intake.claimed_slots cs SET msg_id = r.queue_id FROM replayed r
        JOIN intake.engine_config c ON c.pool_id = replay.pool_id
        CROSS JOIN LATERAL jsonb_array_elements(r.message -> 'seats') AS s (seat)
        WHERE cs.pool_no = c.pool_no AND cs.slot_no = (s.seat ->> 'slot_no')::bigint
            AND cs.claim_id = (r.message ->> 'claim_id')::uuid)
    SELECT coalesce(array_agg(r.msg_id ORDER BY r.msg_id), '{}') INTO moved FROM replayed r;
    PERFORM intake_private.record_audit(replay.pool_id, 'replay', replay.actor, replay.reason,
        jsonb_build_object('asked', replay.msg_ids, 'moved', moved));
    RETURN QUERY SELECT unnest(moved);
END $$;
COMMENT ON FUNCTION intake.replay IS
    'Put dead letters back on the queue, with their state and without failures, and record it in intake.audit. Returns '
    'the ids that were there; a second call finds none. Raises IE001 for an unknown pool, IE002 without an actor and a '
    'reason.';

CREATE FUNCTION intake.discard(pool_id text, msg_ids bigint[], actor text, reason text,
    evidence text DEFAULT 'none was given', return_conflicts boolean DEFAULT false) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    ended     bigint[];
    slot_nos  bigint[];
    claim_ids uuid[];
    theirs    bigint[]; -- slots that belong to another sale
BEGIN
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    WITH deleted AS (
        DELETE FROM pgmq.q_intake_dlq d
        WHERE d.msg_id = ANY (discard.msg_ids) AND d.message ->> 'pool_id' = discard.pool_id
        RETURNING d.*),
    archived AS (
        INSERT INTO pgmq.a_intake_dlq (msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers)
        SELECT g.msg_id, g.read_ct, g.enqueued_at, g.last_read_at, g.vt, g.message || '{"outcome": "voided"}', g.headers
        FROM deleted g),
    slot AS (
        SELECT (s.seat ->> 'slot_no')::bigint AS slot_no, (g.message ->> 'claim_id')::uuid AS claim_id,
            g.message ? 'conflict' AS conflict
        FROM deleted g CROSS JOIN LATERAL jsonb_array_elements(g.message -> 'seats') AS s (seat))
    SELECT (SELECT coalesce(array_agg(g.msg_id ORDER BY g.msg_id), '{}') FROM deleted g),
        coalesce(array_agg(s.slot_no), '{}'), coalesce(array_agg(s.claim_id), '{}'),
        array_agg(s.slot_no) FILTER (WHERE s.conflict AND NOT discard.return_conflicts)
    INTO ended, slot_nos, claim_ids, theirs FROM slot s;
    PERFORM intake_private.record_outcomes(discard.pool_id, slot_nos, claim_ids,
        array_fill('voided'::text, ARRAY[cardinality(slot_nos)]));
    IF theirs IS NOT NULL THEN
        -- Sold again, each of them would only make the next conflict.
        theirs := intake_private.withhold((intake_private.config_of(discard.pool_id)).pool_no, theirs, discard.actor,
            discard.reason);
    END IF;
    PERFORM intake_private.record_audit(discard.pool_id, 'discard', discard.actor, discard.reason,
        jsonb_build_object('asked', discard.msg_ids, 'discarded', ended, 'evidence', discard.evidence)
        || CASE WHEN theirs IS NULL THEN '{}'
            ELSE jsonb_build_object('withheld', intake_private.slot_ranges(theirs)) END);
    RETURN QUERY SELECT unnest(ended);
END $$;
COMMENT ON FUNCTION intake.discard IS
    'Archive dead letters that will never be committed as voided, and free their slots; evidence (such as: void_claim '
    'answered voided) goes to intake.audit. The slots of a conflict are withheld from sale, because the ledger has '
    'given one of them to another sale; with return_conflicts they are freed, too. It does not ask the ledger: the '
    'caller has to. Returns the ids that were there; a second call finds none. Raises IE001 for an unknown pool, '
    'IE002 without an actor and a reason.';

CREATE FUNCTION intake.audit_log(pool_id text, max_entries int DEFAULT 100, before bigint DEFAULT NULL)
RETURNS TABLE (id bigint, at timestamptz, action text, actor text, reason text, detail jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM intake_private.config_of(audit_log.pool_id);
    RETURN QUERY
    SELECT a.id, a.at, a.action, a.actor, a.reason, a.detail FROM intake.audit a
    WHERE a.pool_id = audit_log.pool_id AND (audit_log.before IS NULL OR a.id < audit_log.before)
    ORDER BY a.id DESC LIMIT audit_log.max_entries;
END $$;
COMMENT ON FUNCTION intake.audit_log IS
    'What people did by hand, the latest first: entries with an id below `before` (NULL: from the latest). Raises '
    'IE001 for an unknown pool.';

GRANT EXECUTE ON FUNCTION intake.replay, intake.discard TO bridge;
GRANT EXECUTE ON FUNCTION intake.dead_letters TO bridge, monitor;
GRANT EXECUTE ON FUNCTION intake.audit_log TO monitor;
