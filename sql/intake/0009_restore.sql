-- A DB1 whose volume was lost, made again from what the ledger holds of the pool.
--
-- The ledger's claims become what an acknowledged claim leaves behind: messages in the archive. seed() then makes the
-- holds out of them as after any crash, so that what is sold stays sold and who asks again gets the first answer. What
-- had not reached the ledger is gone. All pages and end_restore() belong into one transaction: half of a pool restored
-- would sell the other half again.

CREATE TABLE intake.restores (
    pool_id   text        PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    committed bigint      NOT NULL,
    voided    bigint      NOT NULL
);
COMMENT ON TABLE intake.restores IS 'Pools that were made again from the ledger, and with how many claims. LOGGED: the report tells it.';

CREATE FUNCTION intake.restored(pool_id text) RETURNS jsonb
LANGUAGE sql STABLE
RETURN (SELECT jsonb_build_object('at', r.at, 'committed', r.committed, 'voided', r.voided)
    FROM intake.restores r WHERE r.pool_id = restored.pool_id);
COMMENT ON FUNCTION intake.restored IS 'When a pool was restored, and from how many claims; NULL if it never was.';

CREATE FUNCTION intake.restorable(pool_id text) RETURNS intake.engine_config
LANGUAGE plpgsql AS $$
DECLARE
    config intake.engine_config := intake.config_of(restorable.pool_id);
BEGIN
    -- As in seed(), which must not run between two pages.
    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);
    config := intake.config_of(restorable.pool_id);
    IF config.epoch > 0 THEN
        RAISE EXCEPTION 'pool % has been seeded or restored', quote_literal(restorable.pool_id) USING ERRCODE = 'IE003',
            HINT = 'Only a pool that was configured and never seeded can be restored, and only once.';
    END IF;
    RETURN config;
END $$;
COMMENT ON FUNCTION intake.restorable IS 'The configuration of a pool that may be restored, or IE003. Until the transaction ends nobody seeds it.';

CREATE FUNCTION intake.ledger_page(config intake.engine_config, claims jsonb)
RETURNS TABLE (claim_id uuid, state text, user_id text, request_id text, claimed_at timestamptz, slots int,
    slot_no bigint, told_resource uuid, resource_id uuid)
LANGUAGE sql STABLE AS $$
    SELECT c.claim_id, c.state, c.user_id, c.request_id,
        -- A ledger of one's own may not have kept it; the claim's id has the time in it.
        coalesce(c.claimed_at, uuid_extract_timestamp(c.claim_id), now()), coalesce(cardinality(c.slot_nos), 0),
        n.slot_no, c.resource_ids[1],
        -- Not resource_at(): there are no slots before seed().
        coalesce(intake.resource_of(CASE WHEN NOT config.own_resources THEN intake.series_of(config.pool_id) END,
                n.slot_no),
            (SELECT v.resource_id FROM intake.inventory v WHERE v.pool_no = config.pool_no AND v.slot_no = n.slot_no))
    FROM jsonb_to_recordset(claims) AS c (claim_id uuid, state text, user_id text, request_id text,
        claimed_at timestamptz, slot_nos bigint[], resource_ids uuid[])
    -- A voided claim has sold nothing, so the ledger has no slot for it.
    CROSS JOIN LATERAL (SELECT CASE c.state WHEN 'committed' THEN c.slot_nos[1] ELSE intake.slot_of(c.claim_id) END
        AS slot_no) n
$$;
COMMENT ON FUNCTION intake.ledger_page IS 'A page of ledger_claims(), each claim with its slot and with the resource id that the pool gives that slot.';

CREATE FUNCTION intake.check_ledger_page(config intake.engine_config, claims jsonb) RETURNS void
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
        SELECT p.*, w.* INTO bad FROM intake.ledger_page(config, claims) p CROSS JOIN LATERAL (SELECT CASE
            WHEN p.claim_id IS NULL THEN 'it has no claim_id'
            WHEN (p.state IN ('committed', 'voided')) IS NOT TRUE THEN 'it is neither committed nor voided'
            WHEN (length(p.user_id) BETWEEN 1 AND 200) IS NOT TRUE
                THEN 'its user_id is not a text of 1 to 200 characters'
            WHEN length(p.request_id) NOT BETWEEN 1 AND 200 THEN 'its request_id is not a text of 1 to 200 characters'
            WHEN p.state = 'committed' AND p.slots <> 1 THEN format('it has %s slots, not one', p.slots)
            WHEN (p.slot_no BETWEEN 1 AND config.inventory_size) IS NOT TRUE
                THEN format('the pool has no slot %s', coalesce(p.slot_no::text, 'NULL')) END AS wrong,
            p.state = 'committed' AND p.told_resource IS DISTINCT FROM p.resource_id AS differs) w
        WHERE w.wrong IS NOT NULL OR w.differs ORDER BY p.claim_id LIMIT 1;
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'a claim of the ledger cannot be read: %', SQLERRM USING ERRCODE = 'IE002',
            HINT = 'claim_id, state, user_id, request_id, claimed_at, slot_nos, resource_ids, as ledger_claims() has them.';
    END;
    IF bad.wrong IS NOT NULL THEN
        RAISE EXCEPTION 'claim % of the ledger cannot be restored: %', coalesce(bad.claim_id::text, 'NULL'), bad.wrong
            USING ERRCODE = 'IE002', HINT = 'Look at it in the ledger; was the pool''s name used for another sale?';
    ELSIF bad.differs THEN
        RAISE EXCEPTION 'claim % has sold slot % as resource %, and in pool % that slot is %', bad.claim_id,
            bad.slot_no, coalesce(bad.told_resource::text, 'NULL'), quote_literal(config.pool_id),
            coalesce(bad.resource_id::text, 'not stocked')
            USING ERRCODE = 'IE006', HINT = 'Stock the inventory that was sold from: the same rows in the same order.';
    END IF;
END $$;
COMMENT ON FUNCTION intake.check_ledger_page IS 'Refuse a page that this pool cannot have sold, by the first claim that is wrong.';

CREATE FUNCTION intake.restore(pool_id text, claims jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.restorable(restore.pool_id);
    added  bigint;
BEGIN
    PERFORM intake.check_ledger_page(config, claims);
    -- A read_ct of 1: bridges have had it. Its seat is told in end_restore(), which sees the whole request.
    INSERT INTO pgmq.a_intake_queue (msg_id, read_ct, enqueued_at, vt, message)
    SELECT nextval('pgmq.q_intake_queue_msg_id_seq'), 1, p.claimed_at, p.claimed_at,
        intake.intent(p.claim_id, config.pool_id, p.user_id, p.request_id, 1, p.slot_no, p.resource_id, p.claimed_at)
            || jsonb_build_object('state', CASE p.state WHEN 'committed' THEN 'validated' ELSE 'queued' END,
                'outcome', p.state)
    FROM (SELECT * FROM intake.ledger_page(config, claims) ORDER BY claim_id) p;
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added;
END $$;
COMMENT ON FUNCTION intake.restore IS 'A page of ledger_claims() becomes archived claims of a pool that was never seeded. Returns how many. end_restore() follows in the same transaction, then seed().';

CREATE FUNCTION intake.tell_seats(pool_id text) RETURNS void
LANGUAGE sql AS $$
    -- Claims of one call have ids in the order of their seats.
    UPDATE pgmq.a_intake_queue a SET message = a.message || jsonb_build_object('seat', n.seat)
    FROM (SELECT x.msg_id, row_number() OVER (PARTITION BY x.message ->> 'user_id', x.message ->> 'request_id'
            ORDER BY x.message ->> 'claim_id') AS seat
        FROM pgmq.a_intake_queue x
        WHERE x.message ->> 'pool_id' = tell_seats.pool_id AND x.message ->> 'request_id' IS NOT NULL) n
    WHERE a.msg_id = n.msg_id AND n.seat > 1;
$$;
COMMENT ON FUNCTION intake.tell_seats IS 'Number the restored claims of each request: the ledger does not know which was which seat.';

CREATE FUNCTION intake.tickets_passed(pool_id text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    -- The last number up to which at least half are held. settle() brings what is free before it to the free list, which
    -- so gets no longer than what is held; behind it whoever draws tickets meets more free numbers than held ones.
    SELECT max(s.slot_no)
    FROM (SELECT h.slot_no, row_number() OVER (ORDER BY h.slot_no) AS held
        FROM (SELECT (a.message ->> 'slot_no')::bigint AS slot_no FROM pgmq.a_intake_queue a
            WHERE a.message ->> 'pool_id' = tickets_passed.pool_id AND a.message ->> 'outcome' = 'committed') h) s
    WHERE 2 * s.held >= s.slot_no;
$$;
COMMENT ON FUNCTION intake.tickets_passed IS 'The last ticket that a restored pool takes for drawn; NULL = none.';

CREATE FUNCTION intake.end_restore(pool_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.restorable(end_restore.pool_id);
    twice  text;
    ended  intake.restores;
BEGIN
    SELECT a.message ->> 'claim_id' INTO twice FROM pgmq.a_intake_queue a WHERE a.message ->> 'pool_id' = config.pool_id
    GROUP BY a.message ->> 'claim_id' HAVING count(*) > 1 LIMIT 1;
    IF twice IS NOT NULL THEN
        RAISE EXCEPTION 'claim % was restored twice', twice USING ERRCODE = 'IE002',
            HINT = 'Each page of ledger_claims() is restored once, each behind the last claim of the page before.';
    END IF;
    PERFORM intake.tell_seats(config.pool_id);
    -- Nobody walks over all that is sold; setval() is strict.
    PERFORM setval(intake.tickets(config.pool_no), intake.tickets_passed(config.pool_id));
    INSERT INTO intake.restores (pool_id, committed, voided)
    SELECT config.pool_id, count(*) FILTER (WHERE a.message ->> 'outcome' = 'committed'),
        count(*) FILTER (WHERE a.message ->> 'outcome' = 'voided')
    FROM pgmq.a_intake_queue a WHERE a.message ->> 'pool_id' = config.pool_id
    RETURNING * INTO ended;
    -- The life in the DB1 that was lost. seed() begins the second, in which a number can be held before its ticket comes.
    UPDATE intake.engine_config c SET epoch = 1 WHERE c.pool_id = config.pool_id;
    PERFORM intake.audited(config.pool_id, 'restore', session_user, 'rebuilt from the ledger',
        jsonb_build_object('committed', ended.committed, 'voided', ended.voided));
END $$;
COMMENT ON FUNCTION intake.end_restore IS 'All pages are restored: from here on the pool can be seeded, and never be restored again.';
