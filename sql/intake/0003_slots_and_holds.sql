-- Inventory: slots, the holds on them, the free list, the queues, and how all of it is (re)built.
--
-- A hold's primary key is the proof against overselling: no function can take a taken slot. Everything UNLOGGED here
-- can be derived from what is LOGGED (configuration, queue, dead letters, archive): seed() does just that, for a new
-- pool and after a crash alike.

SELECT pgmq.create('intake_queue');
SELECT pgmq.create('intake_dlq');
-- Every row is rewritten a few times (read, marked) and then deleted: leave room, and vacuum by count, not by share.
ALTER TABLE pgmq.q_intake_queue SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
REVOKE ALL ON ALL TABLES IN SCHEMA pgmq FROM PUBLIC;

CREATE UNLOGGED TABLE intake.slots (
    pool_no     int    NOT NULL,
    slot_no     bigint NOT NULL,
    resource_id uuid   NOT NULL,
    label       text,
    PRIMARY KEY (pool_no, slot_no)
);
COMMENT ON TABLE intake.slots IS 'The inventory, one row a slot, written by seed() and never updated.';

CREATE UNLOGGED TABLE intake.holds (
    pool_no    int         NOT NULL,
    slot_no    bigint      NOT NULL,
    claim_id   uuid        NOT NULL,
    user_id    text        NOT NULL,
    request_id text,
    ord        int,
    status     "char"      NOT NULL DEFAULT 'R' CHECK (status IN ('R', 'C')),
    locked_at  timestamptz NOT NULL,
    PRIMARY KEY (pool_no, slot_no)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    -- Not looked at while it is small: a claim's plan that was made for a few rows stays with its session, and reads
    -- all of them when they have become many.
    autovacuum_vacuum_insert_threshold = 20000, autovacuum_analyze_threshold = 20000);
CREATE UNIQUE INDEX holds_request_key ON intake.holds (pool_no, user_id, request_id);
-- Partial, so that only one index can be taken for "what does this user hold", whatever the statistics say.
CREATE UNIQUE INDEX holds_user_key ON intake.holds (pool_no, user_id, ord) WHERE ord IS NOT NULL;
COMMENT ON TABLE intake.holds IS 'Taken slots: a row exists exactly as long as the slot is not free.';
COMMENT ON COLUMN intake.holds.ord IS 'Which of the user''s claims this is, 1..claimsPerUser: the limit as a unique key. NULL = made without a limit.';
COMMENT ON COLUMN intake.holds.status IS 'R = RESERVED (the claim is on its way), C = CONSUMED (committed to the ledger).';

CREATE UNLOGGED TABLE intake.free_numbers (
    pool_no int    NOT NULL,
    slot_no bigint NOT NULL,
    PRIMARY KEY (pool_no, slot_no)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE intake.free_numbers IS 'Numbers that tickets have passed and nobody holds: given back, or burnt by an aborted claim.';

CREATE UNLOGGED TABLE intake.voided_requests (
    pool_no    int    NOT NULL,
    user_id    text   NOT NULL,
    request_id text   NOT NULL,
    claim_id   uuid   NOT NULL,
    slot_no    bigint NOT NULL,
    PRIMARY KEY (pool_no, user_id, request_id)
);
COMMENT ON TABLE intake.voided_requests IS 'Requests whose claim was voided: the hold is gone, the answer to a retry stays the same.';

CREATE UNLOGGED TABLE intake.tails (
    pool_no  int      PRIMARY KEY,
    frontier bigint   NOT NULL DEFAULT 0,
    suspects bigint[] NOT NULL DEFAULT '{}',
    blockers text[]   NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON TABLE intake.tails IS 'Where settle() stands: every number up to frontier is held or free; suspects are drawn and neither, as long as one of blockers (virtual transactions) may still take them.';

CREATE VIEW intake.allocations WITH (security_barrier) AS
SELECT s.resource_id, c.pool_id, s.slot_no, s.label,
       CASE h.status WHEN 'R' THEN 'RESERVED' WHEN 'C' THEN 'CONSUMED' ELSE 'AVAILABLE' END AS status,
       h.user_id AS locked_by, h.locked_at, h.claim_id
FROM intake.slots s
JOIN intake.engine_config c USING (pool_no)
LEFT JOIN intake.holds h USING (pool_no, slot_no);
COMMENT ON VIEW intake.allocations IS 'Every slot and its state, as the outside knows it.';
GRANT SELECT ON intake.allocations TO monitor;

CREATE VIEW intake.intents WITH (security_barrier) AS
SELECT 'queued' AS place, m.msg_id, m.message FROM pgmq.q_intake_queue m
UNION ALL SELECT 'dead', m.msg_id, m.message FROM pgmq.q_intake_dlq m
UNION ALL SELECT m.message ->> 'outcome', m.msg_id, m.message FROM pgmq.a_intake_queue m
UNION ALL SELECT m.message ->> 'outcome', m.msg_id, m.message FROM pgmq.a_intake_dlq m;
COMMENT ON VIEW intake.intents IS 'Every claim there has ever been and where it is: queued, dead, committed or voided. All of it LOGGED.';

CREATE FUNCTION intake.resource_of(pool_id text, slot_no bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
-- UUIDv8 over SHA-256 (RFC 9562, B.2): computed wherever it is needed, so a claim reads no slot and a rebuild gives
-- every slot its old id.
RETURN overlay(overlay(left(encode(sha256(convert_to(pool_id || '/' || slot_no, 'UTF8')), 'hex'), 32)
    PLACING '8' FROM 13) PLACING '8' FROM 17)::uuid;
COMMENT ON FUNCTION intake.resource_of IS 'The resource id of a slot of a counted pool.';

CREATE FUNCTION intake.pools_lockers() RETURNS text[]
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}')
    FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.relation = 'intake.pools'::regclass AND l.pid IS DISTINCT FROM pg_backend_pid()
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
$$;
COMMENT ON FUNCTION intake.pools_lockers IS 'The other transactions that have looked at intake.pools: every running claim is among them.';

CREATE FUNCTION intake.settle(pool_no int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Tickets are not transactional: an aborted claim burns its number, and so does a crash. A burnt number looks like one
-- that a running claim is about to take. The difference: a claim reads intake.pools before it draws, and keeps that
-- lock until it ends. So, in this order: read how far tickets went; note who holds a lock on intake.pools; look which
-- numbers have no hold. When everybody noted has ended, what still has no hold is burnt. Nobody waits for anybody.
DECLARE
    chunk CONSTANT bigint := 50000; -- numbers per call, a few tens of milliseconds: it may run inside a fan's claim
    hot   intake.pools;
    tail  intake.tails;
    upto  bigint;
    back  bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('intake.settle'), settle.pool_no) THEN
        RETURN 0;
    END IF;
    SELECT p.* INTO hot FROM intake.pools p WHERE p.pool_no = settle.pool_no;
    SELECT t.* INTO tail FROM intake.tails t WHERE t.pool_no = settle.pool_no;
    IF hot.pool_no IS NULL OR tail.pool_no IS NULL THEN
        RETURN 0;
    END IF;

    -- One pass, or two: the second only when the first found suspects and nobody who could still take them.
    FOR pass IN 1..2 LOOP
        IF cardinality(tail.suspects) > 0 THEN
            IF intake.pools_lockers() && tail.blockers THEN
                -- Not looked at again before they end: a list that is renewed at every call would never empty.
                RETURN back;
            END IF;
            WITH burnt AS (
                INSERT INTO intake.free_numbers (pool_no, slot_no)
                SELECT settle.pool_no, s.slot_no FROM unnest(tail.suspects) AS s (slot_no)
                WHERE NOT EXISTS (SELECT FROM intake.holds h
                    WHERE h.pool_no = settle.pool_no AND h.slot_no = s.slot_no)
                ON CONFLICT DO NOTHING
                RETURNING 1)
            SELECT back + count(*) INTO back FROM burnt;
        END IF;

        upto := least(coalesce(pg_sequence_last_value(hot.ticket_seq), 0), hot.capacity, tail.frontier + chunk);
        tail.blockers := intake.pools_lockers();
        SELECT coalesce(array_agg(g.slot_no ORDER BY g.slot_no), '{}') INTO tail.suspects
        FROM generate_series(tail.frontier + 1, upto) AS g (slot_no)
        WHERE NOT EXISTS (SELECT FROM intake.holds h WHERE h.pool_no = settle.pool_no AND h.slot_no = g.slot_no)
            AND NOT EXISTS (SELECT FROM intake.free_numbers f
                WHERE f.pool_no = settle.pool_no AND f.slot_no = g.slot_no);
        EXIT WHEN cardinality(tail.suspects) = 0 OR cardinality(tail.blockers) > 0;
    END LOOP;

    UPDATE intake.tails t SET suspects = tail.suspects, blockers = tail.blockers,
        frontier = coalesce(tail.suspects[1] - 1, greatest(upto, t.frontier))
    WHERE t.pool_no = settle.pool_no
    RETURNING t.frontier INTO tail.frontier;
    IF tail.frontier >= hot.capacity AND NOT hot.sold_out THEN
        -- capacity is compared again under the row's lock: it may have grown meanwhile.
        UPDATE intake.pools p SET sold_out = true
        WHERE p.pool_no = settle.pool_no AND p.capacity = hot.capacity;
    END IF;
    RETURN back;
END $$;
COMMENT ON FUNCTION intake.settle IS 'Put burnt numbers on the free list, and latch the pool once every number is held or free. Returns the numbers that came back.';

CREATE FUNCTION intake.rebuild_holds(config intake.engine_config) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Acknowledgements wait: each of them sees either no holds yet or all of them.
    LOCK TABLE intake.holds IN EXCLUSIVE MODE;
    DELETE FROM intake.holds h WHERE h.pool_no = config.pool_no;
    DELETE FROM intake.free_numbers f WHERE f.pool_no = config.pool_no;
    DELETE FROM intake.voided_requests v WHERE v.pool_no = config.pool_no;
    DELETE FROM intake.tails t WHERE t.pool_no = config.pool_no;

    -- A slot that two intents hold is damage that only a hand can have done: the first one keeps it, the sale goes on,
    -- and reconcile() reports the other.
    INSERT INTO intake.holds (pool_no, slot_no, claim_id, user_id, request_id, ord, status, locked_at)
    SELECT config.pool_no, (i.message ->> 'slot_no')::bigint, (i.message ->> 'claim_id')::uuid, i.message ->> 'user_id',
        i.message ->> 'request_id',
        CASE WHEN config.claims_per_user IS NOT NULL THEN row_number() OVER (PARTITION BY i.message ->> 'user_id'
            ORDER BY (i.message ->> 'slot_no')::bigint) END,
        CASE i.place WHEN 'committed' THEN 'C' ELSE 'R' END::"char", (i.message ->> 'claimed_at')::timestamptz
    FROM intake.intents i
    WHERE i.message ->> 'pool_id' = config.pool_id AND i.place IN ('queued', 'dead', 'committed')
    ORDER BY (i.message ->> 'slot_no')::bigint, i.message ->> 'claim_id'
    ON CONFLICT DO NOTHING;
    INSERT INTO intake.voided_requests (pool_no, user_id, request_id, claim_id, slot_no)
    SELECT config.pool_no, i.message ->> 'user_id', i.message ->> 'request_id', (i.message ->> 'claim_id')::uuid,
        (i.message ->> 'slot_no')::bigint
    FROM intake.intents i
    WHERE i.message ->> 'pool_id' = config.pool_id AND i.place = 'voided' AND i.message ->> 'request_id' IS NOT NULL
    ON CONFLICT DO NOTHING;
    INSERT INTO intake.tails (pool_no) VALUES (config.pool_no);
    -- What the planner knew was about the tables' former life. Knowing nothing is safe, knowing "empty" is not.
    PERFORM pg_clear_relation_stats('intake', 'holds');
END $$;
COMMENT ON FUNCTION intake.rebuild_holds IS 'Holds and voided requests of a pool out of everything that is LOGGED. Part of seed().';

CREATE FUNCTION intake.seed(pool_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config  intake.engine_config := intake.config_of(seed.pool_id);
    ticket  text := format('intake.%I', 'ticket_' || config.pool_no);
    has_hot boolean;
    held_to bigint;
    added   bigint;
BEGIN
    -- Operator and bridges may all notice that a rebuild is due: one does it, the others then find it done.
    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);
    -- The table before the row: configure() takes them in that order too.
    LOCK TABLE intake.engine_config IN ROW EXCLUSIVE MODE;
    SELECT c.* INTO config FROM intake.engine_config c WHERE c.pool_id = seed.pool_id FOR UPDATE;
    has_hot := EXISTS (SELECT FROM intake.pools p WHERE p.pool_id = seed.pool_id);

    IF NOT has_hot THEN
        PERFORM intake.rebuild_holds(config);
        -- LOGGED, so that after a crash it never gives a number again that was acknowledged.
        EXECUTE format('CREATE SEQUENCE IF NOT EXISTS intake.%I AS bigint MINVALUE 1 NO CYCLE CACHE 1',
            'ticket_' || config.pool_no);
        SELECT max(h.slot_no) INTO held_to FROM intake.holds h WHERE h.pool_no = config.pool_no;
        IF held_to > coalesce(pg_sequence_last_value(ticket::regclass), 0) THEN
            PERFORM setval(ticket::regclass, held_to);
        END IF;
    END IF;

    INSERT INTO intake.slots (pool_no, slot_no, resource_id)
    SELECT config.pool_no, g, intake.resource_of(config.pool_id, g)
    FROM generate_series(1 + coalesce((SELECT max(s.slot_no) FROM intake.slots s WHERE s.pool_no = config.pool_no), 0),
        config.inventory_size) AS g;
    GET DIAGNOSTICS added = ROW_COUNT;

    IF has_hot THEN
        UPDATE intake.pools p SET capacity = config.inventory_size, sold_out = false
        WHERE p.pool_id = seed.pool_id AND p.capacity < config.inventory_size;
    ELSE
        UPDATE intake.engine_config c SET epoch = c.epoch + 1 WHERE c.pool_id = seed.pool_id
        RETURNING c.* INTO config;
        INSERT INTO intake.pools (pool_id, pool_no, epoch, capacity, claims_per_user, opens_at, closes_at, paused,
            sealed, ticket_seq)
        VALUES (config.pool_id, config.pool_no, config.epoch, config.inventory_size, config.claims_per_user,
            config.opens_at, config.closes_at, config.paused, config.sealed_at IS NOT NULL, ticket::regclass);
        PERFORM intake.settle(config.pool_no);
    END IF;
    IF added > 0 THEN
        ANALYZE intake.slots;
    END IF;
    RETURN added;
END $$;
COMMENT ON FUNCTION intake.seed IS 'Make the inventory: first provisioning, growth, and the rebuild after a crash. Publishes the hot row last; returns the slots added.';
