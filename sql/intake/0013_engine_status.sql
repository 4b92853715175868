-- How a pool is doing: heartbeats of workers, metrics, and the counts that a status needs.
--
-- For bridge: report_worker, record_metrics. For monitor: engine_status, which is cheap and called in every pass.

CREATE UNLOGGED TABLE intake.workers (
    pool_no    int         NOT NULL,
    worker     text        NOT NULL,
    generation bigint      NOT NULL,
    batch_size int         NOT NULL,
    health     jsonb       NOT NULL,
    seen_at    timestamptz NOT NULL,
    PRIMARY KEY (pool_no, worker)
) WITH (fillfactor = 50);
COMMENT ON TABLE intake.workers IS 'The last heartbeat of each worker.';

CREATE TABLE intake.engine_metrics (
    pool_id      text        NOT NULL,
    at           timestamptz NOT NULL,
    available    bigint      NOT NULL,
    held         bigint      NOT NULL,
    withheld     bigint      NOT NULL,
    reserved     bigint      NOT NULL,
    consumed     bigint      NOT NULL,
    depth        bigint      NOT NULL,
    in_flight    bigint      NOT NULL,
    dead_letters bigint      NOT NULL,
    claims       bigint      NOT NULL,
    committed    bigint      NOT NULL,
    voided       bigint      NOT NULL,
    PRIMARY KEY (pool_id, at)
);
COMMENT ON TABLE intake.engine_metrics IS
    'A row every 5 seconds for the last hour, written by the bridge that does the housekeeping. available, held, '
    'withheld, reserved and consumed count slots, the others claims.';
GRANT SELECT ON intake.engine_metrics TO monitor;

CREATE FUNCTION intake.report_worker(pool_id text, worker text, generation bigint, batch_size int, health jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(report_worker.pool_id);
BEGIN
    IF coalesce(length(report_worker.worker), 0) NOT BETWEEN 1 AND 200 OR report_worker.generation IS NULL
            OR report_worker.batch_size IS NULL THEN
        RAISE EXCEPTION 'a heartbeat needs worker, generation and batch_size' USING ERRCODE = 'IE002',
            HINT = 'The name of a worker has 1 to 200 characters.';
    END IF;
    INSERT INTO intake.workers AS w (pool_no, worker, generation, batch_size, health, seen_at)
    VALUES (config.pool_no, report_worker.worker, report_worker.generation, report_worker.batch_size,
        coalesce(report_worker.health, '{}'), clock_timestamp())
    ON CONFLICT (pool_no, worker) DO UPDATE SET generation = excluded.generation, batch_size = excluded.batch_size,
        health = excluded.health, seen_at = excluded.seen_at;
END $$;
COMMENT ON FUNCTION intake.report_worker IS
    'Heartbeat of a worker, once a second. Raises IE001 for an unknown pool, IE002 for a missing argument or a name of '
    'more than 200 characters.';

CREATE FUNCTION intake_private.in_flight_and_oldest(pool_id text, at timestamptz, OUT in_flight bigint,
    OUT oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- By index, whatever the statistics say: of a million waiting messages one is read.
SET enable_seqscan = off SET enable_sort = off AS $$
    SELECT (SELECT count(*) FROM pgmq.q_intake_queue q
            WHERE q.vt > in_flight_and_oldest.at AND q.message ->> 'pool_id' = in_flight_and_oldest.pool_id),
        (SELECT q.enqueued_at FROM pgmq.q_intake_queue q
            WHERE q.message ->> 'pool_id' = in_flight_and_oldest.pool_id ORDER BY q.msg_id LIMIT 1);
$$;
COMMENT ON FUNCTION intake_private.in_flight_and_oldest IS
    'How many messages are leased or delayed, and when the oldest message was queued (NULL: the queue is empty).';

CREATE FUNCTION intake_private.voided_and_released(pool_id text, OUT voided bigint, OUT released bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- Few claims are settled like this, but the planner expects nearly all of them, and would read the whole archive.
SET enable_seqscan = off AS $$
    SELECT count(*) FILTER (WHERE a.message ->> 'outcome' = 'voided')
            + (SELECT count(*) FROM pgmq.a_intake_dlq d WHERE d.message ->> 'pool_id' = voided_and_released.pool_id),
        count(*) FILTER (WHERE a.message ->> 'outcome' = 'released')
    FROM pgmq.a_intake_queue a
    WHERE a.message ->> 'outcome' <> 'committed' AND a.message ->> 'pool_id' = voided_and_released.pool_id;
$$;
COMMENT ON FUNCTION intake_private.voided_and_released IS
    'How many claims of a pool were voided, and how many released after they had been on the queue.';

CREATE FUNCTION intake_private.hold_counts(pool_no int, OUT held bigint, OUT last_ends_at timestamptz,
    OUT expired bigint, OUT released bigint)
LANGUAGE sql STABLE AS $$
    SELECT count(h.claim_id) FILTER (WHERE h.ended IS NULL), max(h.expires_at) FILTER (WHERE h.ended IS NULL),
        count(*) FILTER (WHERE h.ended = 'expired') + coalesce(max(e.expired), 0),
        count(*) FILTER (WHERE h.ended = 'released') + coalesce(max(e.released), 0)
    FROM (SELECT hold_counts.pool_no) p LEFT JOIN intake.holds h USING (pool_no)
    LEFT JOIN intake.ended_holds e USING (pool_no)
$$;
COMMENT ON FUNCTION intake_private.hold_counts IS
    'How many claims of a pool are held, when the last of them ends (NULL: none), and how many holds have expired or '
    'were released.';

CREATE FUNCTION intake_private.counts(config intake.engine_config, OUT ready boolean, OUT available bigint,
    OUT held_slots bigint, OUT withheld bigint, OUT reserved bigint, OUT consumed bigint, OUT depth bigint,
    OUT in_flight bigint, OUT oldest_seconds float8, OUT dead_letters bigint, OUT claims bigint, OUT held bigint,
    OUT last_ends_at timestamptz, OUT committed bigint, OUT voided bigint, OUT released bigint, OUT expired bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    capacity        bigint := (SELECT p.capacity FROM intake.pools p WHERE p.pool_no = config.pool_no);
    moment          timestamptz := clock_timestamp();
    oldest          timestamptz;
    reserved_claims bigint;
    released_holds  bigint;
BEGIN
    ready := capacity IS NOT NULL;
    SELECT e.in_flight, e.oldest INTO in_flight, oldest
    FROM intake_private.in_flight_and_oldest(config.pool_id, moment) e;
    oldest_seconds := coalesce(extract(epoch FROM moment - oldest), 0);
    SELECT count(*) INTO dead_letters FROM pgmq.q_intake_dlq d WHERE d.message ->> 'pool_id' = config.pool_id;
    SELECT w.voided, w.released INTO voided, released FROM intake_private.voided_and_released(config.pool_id) w;
    SELECT h.held, h.last_ends_at, h.expired, h.released INTO held, last_ends_at, expired, released_holds
    FROM intake_private.hold_counts(config.pool_no) h;
    released := released + released_holds;
    IF ready THEN
        SELECT count(*) FILTER (WHERE cs.status = 'H'), count(*) FILTER (WHERE cs.status = 'W'),
            count(*) FILTER (WHERE cs.status = 'R'), count(*) FILTER (WHERE cs.status = 'C'),
            count(*) FILTER (WHERE cs.status = 'R' AND cs.part_no = 1),
            count(*) FILTER (WHERE cs.status = 'C' AND cs.part_no = 1)
        INTO held_slots, withheld, reserved, consumed, reserved_claims, committed
        FROM intake.claimed_slots cs WHERE cs.pool_no = config.pool_no;
        available := capacity - held_slots - withheld - reserved - consumed;
        -- Counted in claimed_slots, which has a quarter of the bytes of the queue and no jsonb. Only the queue itself
        -- can say that it is empty.
        depth := CASE WHEN oldest IS NULL THEN 0 ELSE greatest(reserved_claims - dead_letters, 1) END;
    ELSE
        -- The claimed slots are lost or not built yet. Count what is LOGGED.
        SELECT count(*) FILTER (WHERE i.place = 'queued'), count(*) FILTER (WHERE i.place = 'committed'),
            coalesce(sum(i.parts) FILTER (WHERE i.place = 'held'), 0),
            coalesce(sum(i.parts) FILTER (WHERE i.place IN ('queued', 'dead')), 0),
            coalesce(sum(i.parts) FILTER (WHERE i.place = 'committed'), 0)
        INTO depth, committed, held_slots, reserved, consumed
        FROM (SELECT x.place, jsonb_array_length(x.message -> 'seats') AS parts FROM intake.intents x
            WHERE x.message ->> 'pool_id' = config.pool_id) i;
        SELECT count(*) INTO withheld FROM intake.withheld w WHERE w.pool_no = config.pool_no;
        reserved_claims := depth + dead_letters;
        available := 0;
    END IF;
    claims := held + reserved_claims + committed + voided + released + expired;
END $$;
COMMENT ON FUNCTION intake_private.counts IS
    'The numbers of a pool, now. available, held_slots, withheld, reserved and consumed count slots, the others '
    'claims. available is 0 while the pool is not ready.';

CREATE FUNCTION intake.record_metrics(pool_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(record_metrics.pool_id);
BEGIN
    INSERT INTO intake.engine_metrics (pool_id, at, available, held, withheld, reserved, consumed, depth, in_flight,
        dead_letters, claims, committed, voided)
    SELECT config.pool_id, clock_timestamp(), n.available, n.held_slots, n.withheld, n.reserved, n.consumed, n.depth,
        n.in_flight, n.dead_letters, n.claims, n.committed, n.voided
    FROM intake_private.counts(config) n
    ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION intake.record_metrics IS 'Add a row to engine_metrics. Raises IE001 for an unknown pool.';

CREATE FUNCTION intake.engine_status(pool_id text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(engine_status.pool_id);
    n      record;
    past   intake.engine_metrics;
    moment timestamptz := clock_timestamp();
    span   float8;
BEGIN
    SELECT * INTO n FROM intake_private.counts(config);
    -- Rates since a row of engine_metrics 2 to 15 seconds ago: long enough to be smooth, short enough to be current.
    SELECT m.* INTO past FROM intake.engine_metrics m
    WHERE m.pool_id = engine_status.pool_id AND m.at BETWEEN moment - interval '15 s' AND moment - interval '2 s'
    ORDER BY m.at LIMIT 1;
    span := extract(epoch FROM moment - past.at);
    RETURN jsonb_build_object(
        'now', moment, 'windowState', intake_private.window_state(config.opens_at, config.closes_at),
        'sealed', config.sealed_at IS NOT NULL, 'ready', n.ready, 'generation', config.generation,
        'inventory', jsonb_build_object('size', config.inventory_size, 'available', n.available, 'held', n.held_slots,
            'withheld', n.withheld, 'reserved', n.reserved, 'consumed', n.consumed),
        'queue', jsonb_build_object('depth', n.depth, 'inFlight', n.in_flight,
            'oldestSeconds', round(n.oldest_seconds::numeric, 3), 'deadLetters', n.dead_letters),
        'claims', n.claims, 'held', n.held, 'committed', n.committed, 'voided', n.voided, 'released', n.released,
        'expired', n.expired, 'holds', jsonb_build_object('claims', n.held, 'lastEndsAt', n.last_ends_at),
        'claimsPerSecond', coalesce(round(((n.claims - past.claims) / span)::numeric, 1), 0),
        'commitsPerSecond', coalesce(round(((n.committed - past.committed) / span)::numeric, 1), 0),
        -- The operator looks back as far before it removes bridges. NULL: no bridge wrote metrics.
        'peakDepth', (SELECT max(m.depth) FROM intake.engine_metrics m
            WHERE m.pool_id = engine_status.pool_id AND m.at > moment - interval '5 minutes'),
        'restored', intake_private.restore_summary(config.pool_id),
        'workers', (SELECT coalesce(jsonb_agg(jsonb_build_object('worker', w.worker, 'generation', w.generation,
                'batchSize', w.batch_size, 'health', w.health) ORDER BY w.worker), '[]')
            FROM intake.workers w
            WHERE w.pool_no = config.pool_no AND w.seen_at > clock_timestamp() - interval '10 s'));
END $$;
COMMENT ON FUNCTION intake.engine_status IS
    'Everything that the status of an event needs, in one call, as a JSON object: now, ready, sealed, generation, '
    'windowState, inventory (in slots), queue, counts of claims, holds, rates per second (in claims), peakDepth of the '
    'last 5 minutes, restored, and the workers seen in the last 10 seconds. Raises IE001 for an unknown pool.';

GRANT EXECUTE ON FUNCTION intake.report_worker, intake.record_metrics TO bridge;
GRANT EXECUTE ON FUNCTION intake.engine_status TO monitor;
