-- How a pool is doing: workers' heartbeats, metrics, the counts a status needs, and the proofs.
--
-- engine_status() is cheap and is asked all the time. proof() and reconcile() read everything and are exact; they look
-- at one snapshot each, so they may be asked while claims run.

CREATE UNLOGGED TABLE intake.workers (
    pool_no    int         NOT NULL,
    worker     text        NOT NULL,
    generation bigint      NOT NULL,
    batch_size int         NOT NULL,
    health     jsonb       NOT NULL,
    seen_at    timestamptz NOT NULL,
    PRIMARY KEY (pool_no, worker)
) WITH (fillfactor = 50);
COMMENT ON TABLE intake.workers IS 'The last heartbeat of each bridge.';

CREATE TABLE intake.engine_metrics (
    pool_id      text        NOT NULL,
    at           timestamptz NOT NULL,
    available    bigint      NOT NULL,
    reserved     bigint      NOT NULL,
    consumed     bigint      NOT NULL,
    depth        bigint      NOT NULL,
    in_flight    bigint      NOT NULL,
    dead_letters bigint      NOT NULL,
    claims       bigint      NOT NULL,
    voided       bigint      NOT NULL,
    PRIMARY KEY (pool_id, at)
);
COMMENT ON TABLE intake.engine_metrics IS 'A row every few seconds, of the last hour, written by whichever bridge keeps house.';
GRANT SELECT ON intake.engine_metrics TO monitor;

-- Few claims end voided or released; these find them without reading the others.
CREATE INDEX a_intake_queue_void ON pgmq.a_intake_queue ((message ->> 'claim_id')) WHERE message ->> 'outcome' <> 'committed';
CREATE INDEX a_intake_dlq_claim ON pgmq.a_intake_dlq ((message ->> 'claim_id'));

CREATE FUNCTION intake.report_worker(pool_id text, worker text, generation bigint, batch_size int, health jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(report_worker.pool_id);
BEGIN
    IF coalesce(length(report_worker.worker), 0) NOT BETWEEN 1 AND 200 OR report_worker.generation IS NULL
            OR report_worker.batch_size IS NULL THEN
        RAISE EXCEPTION 'a heartbeat needs worker, generation and batch_size' USING ERRCODE = 'IE002',
            HINT = 'A worker''s name has 1 to 200 characters.';
    END IF;
    INSERT INTO intake.workers AS w (pool_no, worker, generation, batch_size, health, seen_at)
    VALUES (config.pool_no, report_worker.worker, report_worker.generation, report_worker.batch_size,
        coalesce(report_worker.health, '{}'), clock_timestamp())
    ON CONFLICT (pool_no, worker) DO UPDATE SET generation = excluded.generation, batch_size = excluded.batch_size,
        health = excluded.health, seen_at = excluded.seen_at;
END $$;
COMMENT ON FUNCTION intake.report_worker IS 'Heartbeat of a bridge, once a second.';

CREATE FUNCTION intake.ends_of_queue(pool_id text, at timestamptz, OUT in_flight bigint, OUT oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- By their indexes, whatever the statistics say: of a million that wait, one is visited.
SET enable_seqscan = off SET enable_sort = off AS $$
    SELECT (SELECT count(*) FROM pgmq.q_intake_queue q
            WHERE q.vt > ends_of_queue.at AND q.message ->> 'pool_id' = ends_of_queue.pool_id),
        (SELECT q.enqueued_at FROM pgmq.q_intake_queue q
            WHERE q.message ->> 'pool_id' = ends_of_queue.pool_id ORDER BY q.msg_id LIMIT 1);
$$;
COMMENT ON FUNCTION intake.ends_of_queue IS 'How many messages are leased or wait for their next try, and since when the oldest one has been there: NULL if there is none.';

CREATE FUNCTION intake.without_sale(pool_id text, OUT voided bigint, OUT released bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- Few claims end so, but the planner takes them for nearly all, and would read the whole archive.
SET enable_seqscan = off AS $$
    SELECT count(*) FILTER (WHERE a.message ->> 'outcome' = 'voided')
            + (SELECT count(*) FROM pgmq.a_intake_dlq d WHERE d.message ->> 'pool_id' = without_sale.pool_id),
        count(*) FILTER (WHERE a.message ->> 'outcome' = 'released')
    FROM pgmq.a_intake_queue a
    WHERE a.message ->> 'outcome' <> 'committed' AND a.message ->> 'pool_id' = without_sale.pool_id;
$$;
COMMENT ON FUNCTION intake.without_sale IS 'How many claims of a pool were voided, and how many released.';

CREATE FUNCTION intake.counts(config intake.engine_config, OUT ready boolean, OUT available bigint, OUT reserved bigint,
    OUT consumed bigint, OUT depth bigint, OUT in_flight bigint, OUT oldest_seconds float8, OUT dead_letters bigint,
    OUT voided bigint, OUT released bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    capacity bigint := (SELECT p.capacity FROM intake.pools p WHERE p.pool_no = config.pool_no);
    moment   timestamptz := clock_timestamp();
    oldest   timestamptz;
BEGIN
    ready := capacity IS NOT NULL;
    SELECT e.in_flight, e.oldest INTO in_flight, oldest FROM intake.ends_of_queue(config.pool_id, moment) e;
    oldest_seconds := coalesce(extract(epoch FROM moment - oldest), 0);
    SELECT count(*) INTO dead_letters FROM pgmq.q_intake_dlq d WHERE d.message ->> 'pool_id' = config.pool_id;
    SELECT w.voided, w.released INTO voided, released FROM intake.without_sale(config.pool_id) w;
    IF ready THEN
        SELECT count(*) FILTER (WHERE h.status = 'R'), count(*) FILTER (WHERE h.status = 'C') INTO reserved, consumed
        FROM intake.claimed_slots h WHERE h.pool_no = config.pool_no;
        available := capacity - reserved - consumed;
        -- Counted by the holds, a quarter of the queue's bytes and no jsonb. Whether it is empty, only the queue itself says.
        depth := CASE WHEN oldest IS NULL THEN 0 ELSE greatest(reserved - dead_letters, 1) END;
    ELSE
        -- The holds are gone or not yet there; what is LOGGED knows.
        SELECT count(*) INTO depth FROM pgmq.q_intake_queue q WHERE q.message ->> 'pool_id' = config.pool_id;
        reserved := depth + dead_letters;
        SELECT count(*) INTO consumed FROM pgmq.a_intake_queue a
        WHERE a.message ->> 'outcome' = 'committed' AND a.message ->> 'pool_id' = config.pool_id;
        available := 0;
    END IF;
END $$;
COMMENT ON FUNCTION intake.counts IS 'The numbers of a pool, now. available is 0 while the pool is not ready.';

CREATE FUNCTION intake.record_metrics(pool_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(record_metrics.pool_id);
BEGIN
    INSERT INTO intake.engine_metrics (pool_id, at, available, reserved, consumed, depth, in_flight, dead_letters, claims,
        voided)
    SELECT config.pool_id, clock_timestamp(), n.available, n.reserved, n.consumed, n.depth, n.in_flight, n.dead_letters,
        n.reserved + n.consumed + n.voided + n.released, n.voided
    FROM intake.counts(config) n
    ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION intake.record_metrics IS 'One row into engine_metrics.';

CREATE FUNCTION intake.engine_status(pool_id text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(engine_status.pool_id);
    n      record;
    past   intake.engine_metrics;
    moment timestamptz := clock_timestamp();
    span   float8;
BEGIN
    SELECT * INTO n FROM intake.counts(config);
    -- Rates over the last metrics rows, 2 to 15 seconds back: long enough to be smooth, short enough to be now.
    SELECT m.* INTO past FROM intake.engine_metrics m
    WHERE m.pool_id = engine_status.pool_id AND m.at BETWEEN moment - interval '15 s' AND moment - interval '2 s'
    ORDER BY m.at LIMIT 1;
    span := extract(epoch FROM moment - past.at);
    RETURN jsonb_build_object(
        'now', moment, 'windowState', intake.window_state(config.opens_at, config.closes_at),
        'sealed', config.sealed_at IS NOT NULL, 'ready', n.ready, 'generation', config.generation,
        'inventory', jsonb_build_object('size', config.inventory_size, 'available', n.available,
            'reserved', n.reserved, 'consumed', n.consumed),
        'queue', jsonb_build_object('depth', n.depth, 'inFlight', n.in_flight,
            'oldestSeconds', round(n.oldest_seconds::numeric, 3), 'deadLetters', n.dead_letters),
        'claims', n.reserved + n.consumed + n.voided + n.released, 'committed', n.consumed, 'voided', n.voided,
        'released', n.released,
        'claimsPerSecond', coalesce(round(((n.reserved + n.consumed + n.voided + n.released - past.claims)
            / span)::numeric, 1), 0),
        'commitsPerSecond', coalesce(round(((n.consumed - past.consumed) / span)::numeric, 1), 0),
        -- As long as the operator looks back before it takes bridges away. NULL: nobody kept house.
        'peakDepth', (SELECT max(m.depth) FROM intake.engine_metrics m
            WHERE m.pool_id = engine_status.pool_id AND m.at > moment - interval '5 minutes'),
        'restored', intake.restored(config.pool_id),
        'workers', (SELECT coalesce(jsonb_agg(jsonb_build_object('worker', w.worker, 'generation', w.generation,
                'batchSize', w.batch_size, 'health', w.health) ORDER BY w.worker), '[]')
            FROM intake.workers w
            WHERE w.pool_no = config.pool_no AND w.seen_at > clock_timestamp() - interval '10 s'));
END $$;
COMMENT ON FUNCTION intake.engine_status IS 'Everything a status needs in one call.';

CREATE FUNCTION intake.digest_of(what text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN substring(sha256(convert_to(what, 'UTF8')) FROM 1 FOR 8)::bigint;
COMMENT ON FUNCTION intake.digest_of IS 'The first 64 bits of the SHA-256 of a text in UTF-8, as ledger_proof() computes it.';

-- A table of one row: SELECT INTO asks for one, and gets no parallel workers.
CREATE FUNCTION intake.proof(pool_id text) RETURNS TABLE (claims bigint, committed bigint, voided bigint,
    released bigint, queued bigint, dead bigint, slots bigint, digest bigint)
LANGUAGE plpgsql ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake.config_of(proof.pool_id);
BEGIN
    -- claims is counted apart from the rest: by the holds, which know nothing of queue and archive. A message that
    -- vanished leaves a hold behind and the sum no longer agrees. After a crash it disagrees until seed() has run.
    -- The digest is the ledger's: over one text a sold slot and one a voided claim, in no order.
    RETURN QUERY SELECT (SELECT count(*) FROM intake.claimed_slots h WHERE h.pool_no = config.pool_no),
        count(*) FILTER (WHERE i.place = 'committed'), count(*) FILTER (WHERE i.place = 'voided'),
        count(*) FILTER (WHERE i.place = 'released'),
        count(*) FILTER (WHERE i.place = 'queued'), count(*) FILTER (WHERE i.place = 'dead'),
        count(*) FILTER (WHERE i.place = 'committed'),
        mod(coalesce(sum(intake.digest_of(CASE i.place
            WHEN 'committed' THEN concat_ws('|', i.message ->> 'claim_id', i.message ->> 'user_id',
                i.message ->> 'slot_no', i.message ->> 'resource_id')
            WHEN 'voided' THEN concat_ws('|', 'voided', i.message ->> 'claim_id', i.message ->> 'user_id') END)), 0),
            9223372036854775808)::bigint
    FROM intake.intents i WHERE i.message ->> 'pool_id' = config.pool_id;
END $$;
COMMENT ON FUNCTION intake.proof IS 'Where every claim ended. Complete when claims = committed + voided + released and the ledger shows the same committed, voided, slots and digest.';

CREATE FUNCTION intake.reconcile(pool_id text) RETURNS TABLE (invariant text, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(reconcile.pool_id);
BEGIN
    RETURN QUERY
    WITH intent AS MATERIALIZED (
        SELECT i.place, i.message ->> 'claim_id' AS claim_id, (i.message ->> 'slot_no')::bigint AS slot_no,
            i.message ->> 'user_id' AS user_id, i.message ->> 'request_id' AS request_id, i.message ->> 'seat' AS seat,
            i.place IN ('queued', 'dead', 'committed') AS holding
        FROM intake.intents i WHERE i.message ->> 'pool_id' = config.pool_id),
    hold AS MATERIALIZED (
        SELECT h.*, h.claim_id::text AS claim, h.status <> 'V' AS holding, coalesce(h.was_slot_no, h.slot_no) AS made_for
        FROM intake.claimed_slots h WHERE h.pool_no = config.pool_no),
    pool AS ( -- no hot row: the holds are not built, and nothing is asked of them
        SELECT p.*, t.frontier FROM intake.pools p LEFT JOIN intake.tails t USING (pool_no)
        WHERE p.pool_no = config.pool_no)
    SELECT 'I1', format('slot %s is held by claims %s', i.slot_no, string_agg(i.claim_id, ', '))
    FROM intent i WHERE i.holding GROUP BY i.slot_no HAVING count(*) > 1
    UNION ALL
    SELECT 'I1', format('claim %s holds slot %s of %s', i.claim_id, i.slot_no, config.inventory_size)
    FROM intent i WHERE i.holding AND i.slot_no NOT BETWEEN 1 AND config.inventory_size
    UNION ALL
    SELECT 'I2', format('claim %s is in %s places: %s', i.claim_id, count(*), string_agg(i.place, ', '))
    FROM intent i GROUP BY i.claim_id HAVING count(*) > 1
    UNION ALL
    SELECT 'I2', format('claim %s for slot %s is in neither queue, dead letters nor archive', h.claim, h.made_for)
    FROM pool CROSS JOIN hold h
    WHERE NOT EXISTS (SELECT FROM intent i WHERE i.holding = h.holding AND i.claim_id = h.claim AND i.slot_no = h.made_for
        AND i.user_id = h.user_id AND i.request_id IS NOT DISTINCT FROM h.request_id)
    UNION ALL
    SELECT 'I2', format('claim %s (%s) has no hold on its slot %s', i.claim_id, i.place, i.slot_no)
    FROM pool CROSS JOIN intent i
    WHERE NOT EXISTS (SELECT FROM hold h WHERE h.claim = i.claim_id AND h.made_for = i.slot_no AND h.holding = i.holding)
    UNION ALL
    SELECT 'I3', format('claim %s is committed and voided', i.claim_id)
    FROM intent i GROUP BY i.claim_id HAVING bool_or(i.place = 'committed') AND bool_or(i.place = 'voided')
    UNION ALL
    SELECT 'I6', format('slot %s is %s, its claim %s is %s', h.slot_no,
        CASE h.status WHEN 'C' THEN 'CONSUMED' ELSE 'RESERVED' END, h.claim, i.place)
    FROM pool CROSS JOIN hold h JOIN intent i ON i.claim_id = h.claim AND i.holding
    WHERE h.holding AND (h.status = 'C') <> (i.place = 'committed')
    UNION ALL
    SELECT 'I6', format('slot %s is free and held by claim %s', f.slot_no, h.claim)
    FROM pool JOIN intake.free_numbers f USING (pool_no) JOIN hold h ON h.slot_no = f.slot_no
    UNION ALL
    SELECT 'I6', format('slot %s is neither held nor free, though every number up to %s should be', g, pool.frontier)
    FROM pool CROSS JOIN generate_series(1, pool.frontier) g
    WHERE NOT EXISTS (SELECT FROM hold h WHERE h.slot_no = g)
        AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = g)
    UNION ALL
    SELECT 'I6', format('%s slots for a capacity of %s', n.slots, pool.capacity)
    FROM pool CROSS JOIN (SELECT count(*) AS slots FROM intake.slots s WHERE s.pool_no = config.pool_no) n
    WHERE n.slots <> pool.capacity
    UNION ALL
    SELECT 'I7', format('request %s of user %s made claims %s', i.request_id, i.user_id, string_agg(i.claim_id, ', '))
    FROM intent i WHERE i.request_id IS NOT NULL
    GROUP BY i.user_id, i.request_id, i.seat HAVING count(DISTINCT i.claim_id) > 1;
END $$;
COMMENT ON FUNCTION intake.reconcile IS 'What is wrong inside DB1, by the name of the invariant. No row = consistent.';

-- A claim by the key of its hold, which is where reading on goes by: its slot, or -msg_id once it is voided.
CREATE TYPE intake.placed_claim AS (key bigint, claim_id uuid, state text, user_id text, slot_no bigint, resource_id uuid);
COMMENT ON TYPE intake.placed_claim IS 'Where a claim stands, for the comparison with the ledger.';

CREATE FUNCTION intake.rebuilt(pool_id text) RETURNS intake.engine_config
LANGUAGE plpgsql STABLE AS $$
DECLARE
    config intake.engine_config := intake.config_of(rebuilt.pool_id);
BEGIN
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        RAISE EXCEPTION 'pool % is not ready', quote_literal(rebuilt.pool_id) USING ERRCODE = 'IE007',
            HINT = 'Its holds are being (re)built: ask again when engine_status says ready.';
    END IF;
    RETURN config;
END $$;
COMMENT ON FUNCTION intake.rebuilt IS 'The configuration of a pool whose holds are all there, or IE007.';

CREATE FUNCTION intake.ended_claims(pool_id text, after bigint, max_claims int) RETURNS SETOF intake.placed_claim
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake.rebuilt(ended_claims.pool_id);
BEGIN
    RETURN QUERY
    SELECT h.slot_no, h.claim_id, CASE h.status WHEN 'C' THEN 'committed' ELSE intake.state_of(h) END, h.user_id,
        coalesce(h.was_slot_no, h.slot_no), NULL::uuid
    FROM intake.claimed_slots h
    WHERE h.pool_no = config.pool_no AND h.status <> 'R'
        AND h.slot_no > coalesce(ended_claims.after, -9223372036854775808)
    ORDER BY h.slot_no LIMIT ended_claims.max_claims;
END $$;
COMMENT ON FUNCTION intake.ended_claims IS 'Claims that are committed, voided or released, for good, page by page behind the key `after`; without resource ids.';

CREATE FUNCTION intake.claims_at(pool_id text, claim_ids uuid[]) RETURNS SETOF intake.placed_claim
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake.rebuilt(claims_at.pool_id);
    series text := CASE WHEN NOT config.own_resources THEN intake.series_of(config.pool_id) END;
BEGIN
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT a AS claim_id, intake.slot_of(a) AS slot_no FROM unnest(claims_at.claim_ids) a),
    -- Almost all have been sold, and stand at the key of their slot; the others are looked up one by one.
    sold AS MATERIALIZED (
        SELECT h.slot_no, h.claim_id, h.user_id FROM asked a
        JOIN intake.claimed_slots h ON h.pool_no = config.pool_no AND h.slot_no = a.slot_no AND h.claim_id = a.claim_id
        WHERE h.status = 'C')
    SELECT s.slot_no, s.claim_id, 'committed', s.user_id, s.slot_no, intake.resource_at(series, config.pool_no, s.slot_no)
    FROM sold s
    UNION ALL
    SELECT h.slot_no, h.claim_id, intake.state_of(h), h.user_id, coalesce(h.was_slot_no, h.slot_no),
        intake.resource_at(series, config.pool_no, coalesce(h.was_slot_no, h.slot_no))
    FROM asked a CROSS JOIN LATERAL intake.hold_of(config.pool_no, a.claim_id) h
    WHERE h.claim_id IS NOT NULL AND NOT EXISTS (SELECT FROM sold s WHERE s.claim_id = a.claim_id);
END $$;
COMMENT ON FUNCTION intake.claims_at IS 'Where these claims stand now; no row for one that this pool never knew.';

CREATE FUNCTION intake.audit_log(pool_id text, max_entries int DEFAULT 100, before bigint DEFAULT NULL)
RETURNS TABLE (id bigint, at timestamptz, action text, actor text, reason text, detail jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM intake.config_of(audit_log.pool_id);
    RETURN QUERY
    SELECT a.id, a.at, a.action, a.actor, a.reason, a.detail FROM intake.audit a
    WHERE a.pool_id = audit_log.pool_id AND (audit_log.before IS NULL OR a.id < audit_log.before)
    ORDER BY a.id DESC LIMIT audit_log.max_entries;
END $$;
COMMENT ON FUNCTION intake.audit_log IS 'What people did by hand, the latest first; what is older than the entry `before`.';

GRANT EXECUTE ON FUNCTION intake.report_worker, intake.record_metrics TO bridge;
GRANT EXECUTE ON FUNCTION intake.engine_status, intake.proof, intake.reconcile, intake.audit_log, intake.ended_claims,
    intake.claims_at TO monitor;
