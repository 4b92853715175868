-- How a DB1 whose volume was lost is made again from the ledger.
--
-- For the operator: restore (once for each page), then end_restore, all in one transaction, because a pool that is half
-- restored would sell the other half again; then seed.
--
-- Each claim of the ledger becomes the archived message that an acknowledged claim leaves behind. seed() then makes the
-- claimed slots from the archive as after a crash: what is sold stays sold, and a repeated request gets its first
-- answer. Claims that had not reached the ledger are lost.

CREATE TABLE intake.restores (
    pool_id   text        PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    committed bigint      NOT NULL,
    voided    bigint      NOT NULL
);
COMMENT ON TABLE intake.restores IS
    'Pools that were restored from the ledger, and with how many claims. LOGGED: the report names it.';

CREATE FUNCTION intake_private.restore_summary(pool_id text) RETURNS jsonb
LANGUAGE sql STABLE
RETURN (SELECT jsonb_build_object('at', r.at, 'committed', r.committed, 'voided', r.voided)
    FROM intake.restores r WHERE r.pool_id = restore_summary.pool_id);
COMMENT ON FUNCTION intake_private.restore_summary IS
    'When a pool was restored, and from how many committed and voided claims, as a JSON object; NULL if it never was.';

CREATE FUNCTION intake_private.restorable_config(pool_id text) RETURNS intake.engine_config
LANGUAGE plpgsql AS $$
DECLARE
    config intake.engine_config := intake_private.config_of(restorable_config.pool_id);
BEGIN
    -- The lock of seed(), which must not run between two pages.
    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);
    config := intake_private.config_of(restorable_config.pool_id);
    IF config.epoch > 0 THEN
        RAISE EXCEPTION 'pool % has been seeded or restored', quote_literal(restorable_config.pool_id)
            USING ERRCODE = 'IE003',
            HINT = 'Only a pool that was configured and never seeded can be restored, and only once.';
    END IF;
    RETURN config;
END $$;
COMMENT ON FUNCTION intake_private.restorable_config IS
    'The configuration of a pool that may be restored; no session can seed it until the transaction ends. Raises IE001 '
    'for an unknown pool, IE003 if it was seeded or restored before.';

CREATE FUNCTION intake_private.ledger_page(config intake.engine_config, claims jsonb)
RETURNS TABLE (claim_id uuid, state text, user_id text, request_id text, claimed_at timestamptz, slot_nos bigint[],
    ledger_resources uuid[], resource_ids uuid[], seats jsonb)
LANGUAGE sql STABLE AS $$
    SELECT c.claim_id, c.state, c.user_id, c.request_id,
        -- A ledger may not have stored it; the id of the claim contains the time.
        coalesce(c.claimed_at, uuid_extract_timestamp(c.claim_id), now()), n.slot_nos,
        CASE c.state WHEN 'committed' THEN c.resource_ids END, s.resource_ids, s.seats
    FROM jsonb_to_recordset(claims) AS c (claim_id uuid, state text, user_id text, request_id text,
        claimed_at timestamptz, slot_nos bigint[], resource_ids uuid[])
    -- A voided claim has sold nothing, so the ledger has no slots for it. Its id has the first.
    CROSS JOIN LATERAL (SELECT CASE c.state WHEN 'committed' THEN coalesce(c.slot_nos, '{}')
        ELSE ARRAY[intake_private.first_slot_of(c.claim_id)] END AS slot_nos) n
    CROSS JOIN LATERAL (
        SELECT array_agg(r.resource_id ORDER BY r.n) AS resource_ids,
            jsonb_agg(intake_private.seat(r.slot_no, r.resource_id, r.label, r.attributes) ORDER BY r.n) AS seats
        -- Not seats_of(): there are no slots before seed().
        FROM (SELECT u.n, u.slot_no, v.label, v.attributes, coalesce(intake_private.resource_of(
                CASE WHEN NOT config.own_resources THEN intake_private.resource_prefix_of(config.pool_id) END,
                u.slot_no), v.resource_id) AS resource_id
            FROM unnest(n.slot_nos) WITH ORDINALITY AS u (slot_no, n)
            LEFT JOIN intake.inventory v ON v.pool_no = config.pool_no AND v.slot_no = u.slot_no) r) s
$$;
COMMENT ON FUNCTION intake_private.ledger_page IS
    'A page of ledger_claims(): each claim with its slots, the resource ids that the ledger has (NULL: voided) and '
    'those that the pool gives its slots.';

CREATE FUNCTION intake_private.check_ledger_page(config intake.engine_config, claims jsonb) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    bad record;
BEGIN
    IF jsonb_typeof(claims) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'restore needs a JSON array of claims' USING ERRCODE = 'IE002',
            HINT = 'A page of ledger_claims(), an object for each row.';
    END IF;
    BEGIN
        SELECT p.*, w.* INTO bad FROM intake_private.ledger_page(config, claims) p CROSS JOIN LATERAL (SELECT CASE
            WHEN p.claim_id IS NULL THEN 'it has no claim_id'
            WHEN (p.state IN ('committed', 'voided')) IS NOT TRUE THEN 'it is neither committed nor voided'
            WHEN (length(p.user_id) BETWEEN 1 AND 200) IS NOT TRUE
                THEN 'its user_id is not a text of 1 to 200 characters'
            WHEN length(p.request_id) NOT BETWEEN 1 AND 200 THEN 'its request_id is not a text of 1 to 200 characters'
            WHEN cardinality(p.slot_nos) NOT BETWEEN 1 AND 100 THEN format('it has %s slots, not 1 to 100',
                cardinality(p.slot_nos))
            WHEN (SELECT count(DISTINCT n) FROM unnest(p.slot_nos) n) < cardinality(p.slot_nos)
                THEN 'it has a slot twice'
            ELSE (SELECT format('the pool has no slot %s', coalesce(n::text, 'NULL')) FROM unnest(p.slot_nos) n
                WHERE (n BETWEEN 1 AND config.inventory_size) IS NOT TRUE LIMIT 1) END AS wrong,
            p.state = 'committed' AND p.ledger_resources IS DISTINCT FROM p.resource_ids AS differs) w
        WHERE w.wrong IS NOT NULL OR w.differs ORDER BY p.claim_id LIMIT 1;
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'a claim of the ledger cannot be read: %', SQLERRM USING ERRCODE = 'IE002',
            HINT = 'An object has the columns of ledger_claims(): claim_id, state, user_id, request_id, claimed_at, '
                'slot_nos, resource_ids.';
    END;
    IF bad.wrong IS NOT NULL THEN
        RAISE EXCEPTION 'claim % of the ledger cannot be restored: %', coalesce(bad.claim_id::text, 'NULL'), bad.wrong
            USING ERRCODE = 'IE002', HINT = 'Find it in the ledger. Was the name of the pool used for another sale?';
    ELSIF bad.differs THEN
        RAISE EXCEPTION 'claim % has sold the slots % as resources %, and in pool % these slots are %', bad.claim_id,
            bad.slot_nos, coalesce(bad.ledger_resources::text, 'NULL'), quote_literal(config.pool_id),
            bad.resource_ids
            USING ERRCODE = 'IE006', HINT = 'Stock the inventory that was sold from: the same rows in the same order.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_ledger_page IS
    'Refuse a page with a claim that this pool cannot have sold, and name the first such claim. Raises IE002 for a '
    'claim that is malformed or has no slot here, IE006 if it has sold another resource.';

CREATE FUNCTION intake.restore(pool_id text, claims jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.restorable_config(restore.pool_id);
    added  bigint;
BEGIN
    PERFORM intake_private.check_ledger_page(config, claims);
    -- read_ct 1: a bridge has read it. restored: the ledger has neither payload nor receipt for it here.
    INSERT INTO pgmq.a_intake_queue (msg_id, read_ct, enqueued_at, vt, message)
    SELECT nextval('pgmq.q_intake_queue_msg_id_seq'), 1, p.claimed_at, p.claimed_at,
        intake_private.intent(p.claim_id, config.pool_id, p.user_id, p.request_id, p.seats, NULL, p.claimed_at)
            || jsonb_build_object('state', CASE p.state WHEN 'committed' THEN 'validated' ELSE 'queued' END,
                'outcome', p.state, 'restored', true)
    FROM (SELECT * FROM intake_private.ledger_page(config, claims) ORDER BY claim_id) p;
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added;
END $$;
COMMENT ON FUNCTION intake.restore IS
    'Make archived claims of a page of ledger_claims(), a JSON array with an object for each row, in a pool that was '
    'never seeded. Returns how many. Call end_restore() in the same transaction, then seed(). Raises IE001 for an '
    'unknown pool, IE002 and IE006 for a claim that this pool cannot have sold, IE003 if the pool was seeded or '
    'restored before.';

CREATE FUNCTION intake_private.last_drawn_number(pool_id text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    -- The last number up to which at least half are claimed. recycle_numbers() puts the free ones below it on the
    -- free list, which is then no longer than the list of claimed ones; above it most numbers are free, so claims
    -- that draw them rarely have to skip one.
    SELECT max(s.slot_no)
    FROM (SELECT c.slot_no, row_number() OVER (ORDER BY c.slot_no) AS claimed
        FROM (SELECT (s ->> 'slot_no')::bigint AS slot_no
            FROM pgmq.a_intake_queue a CROSS JOIN LATERAL jsonb_array_elements(a.message -> 'seats') s
            WHERE a.message ->> 'pool_id' = last_drawn_number.pool_id AND a.message ->> 'outcome' = 'committed') c) s
    WHERE 2 * s.claimed >= s.slot_no;
$$;
COMMENT ON FUNCTION intake_private.last_drawn_number IS
    'The last number that a restored pool takes for drawn; NULL if none.';

CREATE FUNCTION intake.end_restore(pool_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config    intake.engine_config := intake_private.restorable_config(end_restore.pool_id);
    duplicate text;
    ended     intake.restores;
BEGIN
    SELECT a.message ->> 'claim_id' INTO duplicate FROM pgmq.a_intake_queue a
    WHERE a.message ->> 'pool_id' = config.pool_id
    GROUP BY a.message ->> 'claim_id' HAVING count(*) > 1 LIMIT 1;
    IF duplicate IS NOT NULL THEN
        RAISE EXCEPTION 'claim % was restored twice', duplicate USING ERRCODE = 'IE002',
            HINT = 'Each page of ledger_claims() is restored once, each behind the last claim of the page before.';
    END IF;
    -- Otherwise claims would have to skip every number that is sold. setval() is strict, so NULL leaves the sequence
    -- at its start.
    PERFORM setval(intake_private.number_sequence(config.pool_no), intake_private.last_drawn_number(config.pool_id));
    INSERT INTO intake.restores (pool_id, committed, voided)
    SELECT config.pool_id, count(*) FILTER (WHERE a.message ->> 'outcome' = 'committed'),
        count(*) FILTER (WHERE a.message ->> 'outcome' = 'voided')
    FROM pgmq.a_intake_queue a WHERE a.message ->> 'pool_id' = config.pool_id
    RETURNING * INTO ended;
    -- 1 counts the DB1 that was lost. seed() begins the second life, in which a slot can be claimed before the
    -- sequence reaches its number.
    UPDATE intake.engine_config c SET epoch = 1 WHERE c.pool_id = config.pool_id;
    PERFORM intake_private.record_audit(config.pool_id, 'restore', session_user, 'rebuilt from the ledger',
        jsonb_build_object('committed', ended.committed, 'voided', ended.voided));
END $$;
COMMENT ON FUNCTION intake.end_restore IS
    'End a restore: from here on the pool can be seeded, and can never be restored again. Raises IE001 for an unknown '
    'pool, IE002 if a claim was restored twice, IE003 if the pool was seeded or restored before.';
