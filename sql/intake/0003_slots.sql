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
-- pgmq would find old archive rows by it; nobody here asks for them by their time, and every acknowledgement pays for it.
DROP INDEX pgmq.archived_at_idx_intake_queue;
REVOKE ALL ON ALL TABLES IN SCHEMA pgmq FROM PUBLIC;

CREATE FUNCTION intake.as_id(label text) RETURNS uuid
LANGUAGE sql IMMUTABLE
-- Everything that the type uuid takes: with or without hyphens and braces, in any case.
RETURN CASE WHEN length(label) BETWEEN 32 AND 41
    AND label ~ '^[{]?([0-9A-Fa-f]{4}-?){7}[0-9A-Fa-f]{4}[}]?$' AND (left(label, 1) = '{') = (right(label, 1) = '}')
    THEN label::uuid END;
COMMENT ON FUNCTION intake.as_id IS 'The resource id that a label can be read as; NULL if it is none.';

CREATE FUNCTION intake.unseen(label text) RETURNS text
LANGUAGE sql IMMUTABLE
-- Control characters, every space but the plain one, and what Unicode calls Default_Ignorable_Code_Point. The operator has
-- the same list, and a test tries every character on both.
RETURN CASE WHEN label ~ '^ | $' THEN ' ' ELSE substring(label FROM
    '[\u0001-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f'
    '\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb'
    '\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]') END;
COMMENT ON FUNCTION intake.unseen IS 'The first character of a label that nobody sees: two labels would look alike. NULL if there is none.';

CREATE TABLE intake.inventory (
    pool_no     int    NOT NULL,
    slot_no     bigint NOT NULL,
    resource_id uuid   NOT NULL,
    label       text   CHECK (length(label) BETWEEN 1 AND 200),
    PRIMARY KEY (pool_no, slot_no),
    CONSTRAINT inventory_resource_key UNIQUE (pool_no, resource_id),
    CONSTRAINT inventory_label_key UNIQUE (pool_no, label)
);
-- Few labels can be read as an id, so it is small. Who stocks an id asks it whether that is a label already.
CREATE INDEX inventory_label_as_id ON intake.inventory (pool_no, intake.as_id(label)) WHERE intake.as_id(label) IS NOT NULL;
COMMENT ON TABLE intake.inventory IS 'Resource ids and labels of pools that bring their own. LOGGED: they cannot be computed again after a crash.';

CREATE UNLOGGED TABLE intake.slots (
    pool_no     int    NOT NULL,
    slot_no     bigint NOT NULL,
    resource_id uuid   NOT NULL,
    label       text,
    PRIMARY KEY (pool_no, slot_no)
);
CREATE UNIQUE INDEX slots_resource_key ON intake.slots (pool_no, resource_id);
CREATE UNIQUE INDEX slots_label_key ON intake.slots (pool_no, label) WHERE label IS NOT NULL;
COMMENT ON TABLE intake.slots IS 'The inventory, one row a slot, written by seed() and never updated.';

-- No CHECK here: each one is parsed anew by every INSERT. reconcile() looks instead.
CREATE UNLOGGED TABLE intake.claimed_slots (
    slot_no     bigint      NOT NULL,
    msg_id      bigint      NOT NULL,
    locked_at   timestamptz NOT NULL,
    claim_id    uuid        NOT NULL,
    pool_no     int         NOT NULL,
    seat        int         NOT NULL,
    status      "char"      NOT NULL,
    user_id     text        NOT NULL,
    turn        text        COLLATE "C",
    request_id  text,
    was_slot_no bigint
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    -- Not looked at while it is small: a claim's plan that was made for a few rows stays with its session, and reads
    -- all of them when they have become many.
    autovacuum_vacuum_insert_threshold = 20000, autovacuum_analyze_threshold = 20000);
COMMENT ON TABLE intake.claimed_slots IS 'Every claim there has been. One that has not been voided holds the slot of its key; nobody else can have it.';
COMMENT ON COLUMN intake.claimed_slots.slot_no IS 'The slot that is held; -msg_id once the claim is voided: it holds none, and still answers its request.';
COMMENT ON COLUMN intake.claimed_slots.was_slot_no IS 'The slot that a voided claim held.';
COMMENT ON COLUMN intake.claimed_slots.turn IS 'What is unique among a user''s claims. With claimsPerUser: 1, 2, 3 … without gaps, so that whoever takes the next turn has seen all the claims before it, and neither the limit nor a request can be overrun. Without: request_id/seat, NULL if there is no request_id.';
COMMENT ON COLUMN intake.claimed_slots.seat IS 'Which of the seats of its request, from 1.';
COMMENT ON COLUMN intake.claimed_slots.status IS 'R = RESERVED (on its way), C = CONSUMED (committed to the ledger), V = voided or released.';
COMMENT ON COLUMN intake.claimed_slots.msg_id IS 'Its intent on the queue.';

CREATE FUNCTION intake.add_claim_keys() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE intake.claimed_slots ADD CONSTRAINT claimed_slots_pkey PRIMARY KEY (pool_no, slot_no);
    CREATE UNIQUE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, turn);
END $$;
COMMENT ON FUNCTION intake.add_claim_keys IS 'The keys of the holds: one claim a slot, one claim a turn.';
SELECT intake.add_claim_keys();

CREATE FUNCTION intake.turn_of(nth bigint, seat int, request_id text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN nth IS NULL THEN request_id || '/' || seat::text ELSE nth::text END;
COMMENT ON FUNCTION intake.turn_of IS 'The turn of a claim: its user''s nth where there is a limit, otherwise (nth NULL) its request and seat.';

CREATE UNLOGGED TABLE intake.free_numbers (
    pool_no int    NOT NULL,
    slot_no bigint NOT NULL,
    PRIMARY KEY (pool_no, slot_no)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE intake.free_numbers IS 'Numbers that tickets have passed and nobody holds: given back, or burnt by an aborted claim.';

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
LEFT JOIN intake.claimed_slots h USING (pool_no, slot_no);
COMMENT ON VIEW intake.allocations IS 'Every slot and its state, as the outside knows it.';
GRANT SELECT ON intake.allocations TO monitor;

CREATE VIEW intake.intents WITH (security_barrier) AS
SELECT 'queued' AS place, m.msg_id, m.message FROM pgmq.q_intake_queue m
UNION ALL SELECT 'dead', (m.message ->> 'queued_as')::bigint, m.message FROM pgmq.q_intake_dlq m
UNION ALL SELECT m.message ->> 'outcome', m.msg_id, m.message FROM pgmq.a_intake_queue m
UNION ALL SELECT m.message ->> 'outcome', (m.message ->> 'queued_as')::bigint, m.message FROM pgmq.a_intake_dlq m;
COMMENT ON VIEW intake.intents IS 'Every claim there has ever been and where it is: queued, dead, committed, voided or released. All of it LOGGED. msg_id is its (last) place on the queue.';

-- A counted pool's resource ids are computed, so a claim reads no slot and a rebuild gives every slot its old id: a
-- UUIDv8 (RFC 9562, B.2) whose last 32 bits are the slot number, and the others a SHA-256 of the pool's name. The hash
-- is made once a pool and not once a claim: OpenSSL takes longer to find it than to compute it.
CREATE FUNCTION intake.series_of(pool_id text) RETURNS text
LANGUAGE sql STABLE STRICT
RETURN left(overlay(overlay(left(encode(sha256(convert_to(pool_id, 'UTF8')), 'hex'), 32)
    PLACING '8' FROM 13) PLACING '8' FROM 17)::uuid::text, 28);
COMMENT ON FUNCTION intake.series_of IS 'What the resource ids of a counted pool begin with.';

CREATE FUNCTION intake.resource_of(series text, slot_no bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT
RETURN (series || right(to_hex(slot_no + x'100000000'::bigint), 8))::uuid;
COMMENT ON FUNCTION intake.resource_of IS 'The resource id of a slot of a counted pool.';

CREATE FUNCTION intake.resource_at(series text, pool_no int, slot_no bigint) RETURNS uuid
LANGUAGE sql STABLE
RETURN coalesce(intake.resource_of(series, slot_no),
    (SELECT s.resource_id FROM intake.slots s WHERE s.pool_no = resource_at.pool_no AND s.slot_no = resource_at.slot_no));
COMMENT ON FUNCTION intake.resource_at IS 'The resource id of a slot, computed or, where the pool has resources of its own (series NULL), looked up.';

CREATE FUNCTION intake.new_claim_id(slot_no bigint) RETURNS uuid
LANGUAGE sql VOLATILE
-- A UUIDv7 whose last 24 bits, random otherwise (RFC 9562, 6.9), are the slot number: a claim is found by its id
-- through the key of its slot, and the hot path keeps no index for it. 2^24 is more than the largest inventory.
RETURN (left(uuidv7()::text, 30) || right(to_hex(slot_no + 16777216), 6))::uuid;
COMMENT ON FUNCTION intake.new_claim_id IS 'A new claim id for a slot.';

CREATE FUNCTION intake.slot_of(claim_id uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
RETURN ('x' || right(claim_id::text, 6))::bit(24)::bigint;
COMMENT ON FUNCTION intake.slot_of IS 'The slot that a claim was made for, out of its id.';

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
                WHERE NOT EXISTS (SELECT FROM intake.claimed_slots h
                    WHERE h.pool_no = settle.pool_no AND h.slot_no = s.slot_no)
                ON CONFLICT DO NOTHING
                RETURNING 1)
            SELECT back + count(*) INTO back FROM burnt;
            -- A claim by name can have taken such a number meanwhile. It touches the number's key on the free list
            -- first, so the insert above has waited for it, and this statement sees what it took.
            DELETE FROM intake.free_numbers f
            WHERE f.pool_no = settle.pool_no AND f.slot_no = ANY (tail.suspects) AND (SELECT h.claim_id
                FROM intake.claimed_slots h WHERE h.pool_no = f.pool_no AND h.slot_no = f.slot_no) IS NOT NULL;
        END IF;

        upto := least(coalesce(pg_sequence_last_value(hot.ticket_seq), 0), hot.capacity, tail.frontier + chunk);
        tail.blockers := intake.pools_lockers();
        SELECT coalesce(array_agg(g.slot_no ORDER BY g.slot_no), '{}') INTO tail.suspects
        FROM generate_series(tail.frontier + 1, upto) AS g (slot_no)
        WHERE NOT EXISTS (SELECT FROM intake.claimed_slots h WHERE h.pool_no = settle.pool_no AND h.slot_no = g.slot_no)
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

CREATE FUNCTION intake.strike(pool_no int, slot_nos bigint[]) RETURNS void
LANGUAGE sql AS $$
    -- Not those that somebody has in hand: he will find them held, and they go with him.
    WITH found AS MATERIALIZED (
        SELECT x.slot_no FROM intake.free_numbers x WHERE x.pool_no = strike.pool_no AND x.slot_no = ANY (strike.slot_nos)
        FOR UPDATE SKIP LOCKED)
    DELETE FROM intake.free_numbers f USING found x WHERE f.pool_no = strike.pool_no AND f.slot_no = x.slot_no;
$$;
COMMENT ON FUNCTION intake.strike IS 'Take numbers that are held from the free list.';

CREATE FUNCTION intake.claimed_slots_of(config intake.engine_config) RETURNS SETOF intake.claimed_slots
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN i.void THEN -i.msg_id ELSE i.slot_no END, i.msg_id, i.claimed_at, i.claim_id, config.pool_no, i.seat,
        (CASE WHEN i.void THEN 'V' WHEN i.place = 'committed' THEN 'C' ELSE 'R' END)::"char", i.user_id,
        intake.turn_of(CASE WHEN config.claims_per_user IS NOT NULL
            THEN row_number() OVER (PARTITION BY i.user_id ORDER BY i.claim_id) END, i.seat, i.request_id),
        i.request_id, CASE WHEN i.void THEN i.slot_no END
    FROM (SELECT x.place, x.place IN ('voided', 'released') AS void, x.msg_id, (x.message ->> 'slot_no')::bigint AS slot_no,
            (x.message ->> 'claim_id')::uuid AS claim_id, x.message ->> 'user_id' AS user_id,
            x.message ->> 'request_id' AS request_id, coalesce((x.message ->> 'seat')::int, 1) AS seat,
            (x.message ->> 'claimed_at')::timestamptz AS claimed_at
        FROM intake.intents x WHERE x.message ->> 'pool_id' = config.pool_id
        OFFSET 0) i -- the columns are sorted, not the messages
$$;
COMMENT ON FUNCTION intake.claimed_slots_of IS 'The holds of a pool, out of everything that is LOGGED.';

CREATE FUNCTION intake.rebuild_claimed_slots(config intake.engine_config) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET work_mem = '64MB' AS $$ -- a million claims are sorted, and nobody claims meanwhile
BEGIN
    -- Acknowledgements wait: each of them sees either no holds yet or all of them.
    PERFORM intake.lock_alone('intake.claimed_slots');
    DELETE FROM intake.claimed_slots h WHERE h.pool_no = config.pool_no;
    DELETE FROM intake.free_numbers f WHERE f.pool_no = config.pool_no;
    DELETE FROM intake.tails t WHERE t.pool_no = config.pool_no;
    BEGIN
        -- Keys made of all rows at once take a fifth of the time of keys that grow row by row.
        IF EXISTS (SELECT FROM intake.claimed_slots) THEN
            INSERT INTO intake.claimed_slots SELECT * FROM intake.claimed_slots_of(config);
        ELSE
            ALTER TABLE intake.claimed_slots DROP CONSTRAINT claimed_slots_pkey;
            DROP INDEX intake.claimed_slots_unique_key;
            INSERT INTO intake.claimed_slots SELECT * FROM intake.claimed_slots_of(config);
            PERFORM intake.add_claim_keys();
        END IF;
    EXCEPTION WHEN unique_violation THEN
        -- Damage that only a hand can have done: the first claim keeps the slot or the turn, the sale goes on, and
        -- reconcile() reports the other.
        INSERT INTO intake.claimed_slots SELECT * FROM intake.claimed_slots_of(config) h
        ORDER BY h.slot_no, h.claim_id
        ON CONFLICT DO NOTHING;
    END;
    INSERT INTO intake.tails (pool_no) VALUES (config.pool_no);
    -- What the planner knew was about the tables' former life. Knowing nothing is safe, knowing "empty" is not.
    PERFORM pg_clear_relation_stats('intake', 'claimed_slots');
END $$;
COMMENT ON FUNCTION intake.rebuild_claimed_slots IS 'The holds of a pool out of everything that is LOGGED. Part of seed().';

CREATE FUNCTION intake.tickets(pool_no int) RETURNS regclass
LANGUAGE plpgsql AS $$
BEGIN
    -- LOGGED, so that after a crash it never gives a number again that was acknowledged.
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS intake.%I AS bigint MINVALUE 1 NO CYCLE CACHE 1',
        'ticket_' || tickets.pool_no);
    RETURN format('intake.%I', 'ticket_' || tickets.pool_no)::regclass;
END $$;
COMMENT ON FUNCTION intake.tickets IS 'The sequence of a pool''s tickets, made if there is none.';

CREATE FUNCTION intake.seed(pool_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config  intake.engine_config := intake.config_of(seed.pool_id);
    tickets regclass;
    has_hot boolean;
    series  text := CASE WHEN NOT config.own_resources THEN intake.series_of(config.pool_id) END;
    stocked bigint;
    seeded  bigint;
    added   bigint;
BEGIN
    -- Operator and bridges may all notice that a rebuild is due: one does it, the others then find it done.
    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);
    SELECT c.* INTO config FROM intake.engine_config c WHERE c.pool_id = seed.pool_id FOR UPDATE;
    has_hot := EXISTS (SELECT FROM intake.pools p WHERE p.pool_id = seed.pool_id);

    IF NOT has_hot THEN
        PERFORM intake.rebuild_claimed_slots(config);
        tickets := intake.tickets(config.pool_no);
    END IF;

    SELECT coalesce(max(s.slot_no), 0) INTO seeded FROM intake.slots s WHERE s.pool_no = config.pool_no;
    IF config.own_resources THEN
        stocked := (SELECT coalesce(max(v.slot_no), 0) FROM intake.inventory v WHERE v.pool_no = config.pool_no);
        IF stocked < config.inventory_size THEN
            RAISE EXCEPTION 'pool % has % of % resources', config.pool_id, stocked, config.inventory_size
                USING ERRCODE = 'IE005', HINT = 'Put the missing ones in with intake.stock(), then seed again.';
        END IF;
        INSERT INTO intake.slots (pool_no, slot_no, resource_id, label)
        SELECT v.pool_no, v.slot_no, v.resource_id, v.label FROM intake.inventory v
        WHERE v.pool_no = config.pool_no AND v.slot_no > seeded AND v.slot_no <= config.inventory_size;
    ELSE
        INSERT INTO intake.slots (pool_no, slot_no, resource_id)
        SELECT config.pool_no, g, intake.resource_of(series, g)
        FROM generate_series(seeded + 1, config.inventory_size) AS g;
    END IF;
    GET DIAGNOSTICS added = ROW_COUNT;

    IF has_hot THEN
        UPDATE intake.pools p SET capacity = config.inventory_size, sold_out = false
        WHERE p.pool_id = seed.pool_id AND p.capacity < config.inventory_size;
    ELSE
        UPDATE intake.engine_config c SET epoch = c.epoch + 1 WHERE c.pool_id = seed.pool_id
        RETURNING c.* INTO config;
        INSERT INTO intake.pools (pool_id, pool_no, epoch, capacity, claims_per_user, opens_at, closes_at, paused,
            sealed, by_name, series, ticket_seq)
        VALUES (config.pool_id, config.pool_no, config.epoch, config.inventory_size, config.claims_per_user,
            config.opens_at, config.closes_at, config.paused, config.sealed_at IS NOT NULL,
            -- A life before this one may have taken some by name.
            config.own_resources OR config.epoch > 1, series, tickets);
        PERFORM intake.settle(config.pool_no);
    END IF;
    IF added > 0 THEN
        ANALYZE intake.slots;
    END IF;
    RETURN added;
END $$;
COMMENT ON FUNCTION intake.seed IS 'Make the inventory: first provisioning, growth, and the rebuild after a crash. Publishes the hot row last; returns the slots added.';

CREATE FUNCTION intake.twice(pool_no int, first_slot bigint, resource_ids uuid[], labels text[]) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format('slots %s and %s have the same %s, %L', o.slot_no, g.slot_no, g.what, left(g.name, 60))
    FROM (SELECT a.*, min(a.slot_no) OVER (PARTITION BY a.what, a.name) AS first FROM (
            SELECT twice.first_slot + r.n - 1 AS slot_no, 'resource id' AS what, r.id::text AS name
            FROM unnest(twice.resource_ids) WITH ORDINALITY AS r (id, n)
            UNION ALL
            SELECT twice.first_slot + l.n - 1, 'label', l.label FROM unnest(twice.labels) WITH ORDINALITY AS l (label, n)) a
        WHERE a.name IS NOT NULL) g
    CROSS JOIN LATERAL (SELECT least(g.first, CASE g.what
        WHEN 'label' THEN (SELECT v.slot_no FROM intake.inventory v WHERE v.pool_no = twice.pool_no AND v.label = g.name)
        ELSE (SELECT v.slot_no FROM intake.inventory v WHERE v.pool_no = twice.pool_no AND v.resource_id = g.name::uuid)
        END) AS slot_no) o
    WHERE o.slot_no < g.slot_no ORDER BY g.slot_no LIMIT 1
$$;
COMMENT ON FUNCTION intake.twice IS 'Which slot, of these rows, has an id or a label that another one has; NULL if none.';

CREATE FUNCTION intake.mistakable(pool_no int, first_slot bigint, resource_ids uuid[], labels text[]) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- By the keys, whatever the statistics say: the first rows are asked before there are any.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    SELECT format('the label of slot %s is the resource id of slot %s', c.label_of, c.id_of) FROM (
        SELECT mistakable.first_slot + l.n - 1 AS label_of, (SELECT v.slot_no FROM intake.inventory v
            WHERE v.pool_no = mistakable.pool_no AND v.resource_id = intake.as_id(l.label)) AS id_of
        FROM unnest(mistakable.labels) WITH ORDINALITY AS l (label, n) WHERE intake.as_id(l.label) IS NOT NULL
        UNION ALL
        SELECT v.slot_no, mistakable.first_slot + r.n - 1
        FROM unnest(mistakable.resource_ids) WITH ORDINALITY AS r (id, n)
        JOIN intake.inventory v ON v.pool_no = mistakable.pool_no AND intake.as_id(v.label) = r.id) c
    WHERE c.label_of <> c.id_of ORDER BY greatest(c.label_of, c.id_of) LIMIT 1
$$;
COMMENT ON FUNCTION intake.mistakable IS 'Which slot has the id of another one for its label, of these rows, which are stocked, and all before; NULL if none.';

CREATE FUNCTION intake.stock(pool_id text, first_slot bigint, resource_ids uuid[], labels text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config   intake.engine_config := intake.config_of(stock.pool_id);
    stocked  bigint;
    differs  bigint;
    unseen   record;
    either   text;
BEGIN
    IF NOT config.own_resources THEN
        RAISE EXCEPTION 'pool % counts its slots and has no resources of its own', stock.pool_id USING ERRCODE = 'IE002',
            HINT = 'configure() it with "ownResources": true.';
    END IF;
    IF stock.labels IS NOT NULL THEN
        -- A label that is written in two ways is one label, here and in claim_seat().
        stock.labels := ARRAY(SELECT normalize(l.label, NFC) FROM unnest(stock.labels) WITH ORDINALITY AS l (label, n) ORDER BY l.n);
    END IF;
    IF coalesce(cardinality(stock.resource_ids), 0) = 0 OR array_position(stock.resource_ids, NULL) IS NOT NULL
            OR cardinality(stock.labels) <> cardinality(stock.resource_ids)
            OR EXISTS (SELECT FROM unnest(stock.labels) l WHERE length(l) NOT BETWEEN 1 AND 200) THEN
        RAISE EXCEPTION 'stock needs resource ids, and labels parallel to them or none' USING ERRCODE = 'IE002',
            HINT = 'No resource id is NULL; a label is NULL or has 1 to 200 characters.';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);
    SELECT coalesce(max(v.slot_no), 0) INTO stocked FROM intake.inventory v WHERE v.pool_no = config.pool_no;
    IF coalesce(stock.first_slot, 0) NOT BETWEEN 1 AND stocked + 1 THEN
        RAISE EXCEPTION 'slot % cannot come next: pool % has resources up to slot %', stock.first_slot, stock.pool_id,
            stocked USING ERRCODE = 'IE002', HINT = 'Slots are stocked in order and without gaps.';
    END IF;
    SELECT stock.first_slot + l.n - 1 AS slot_no, intake.unseen(l.label) AS sign INTO unseen
    FROM unnest(stock.labels) WITH ORDINALITY AS l (label, n) WHERE intake.unseen(l.label) IS NOT NULL ORDER BY l.n LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the label of slot % has U+% in it, or at an end, which nobody can see', unseen.slot_no,
            upper(regexp_replace(lpad(to_hex(ascii(unseen.sign)), 6, '0'), '^00?', '')) USING ERRCODE = 'IE002',
            HINT = 'Leave it out, or write a plain space: labels that look alike cannot be told apart.';
    END IF;
    SELECT min(v.slot_no) INTO differs
    FROM unnest(stock.resource_ids, stock.labels) WITH ORDINALITY AS w (resource_id, label, n)
    JOIN intake.inventory v ON v.pool_no = config.pool_no AND v.slot_no = stock.first_slot + w.n - 1
    WHERE (v.resource_id, v.label) IS DISTINCT FROM (w.resource_id, w.label);
    IF differs IS NOT NULL THEN
        RAISE EXCEPTION 'slot % of pool % is stocked with another resource', differs, stock.pool_id
            USING ERRCODE = 'IE006', HINT = 'It may be sold already: rows are only appended, never changed or reordered.';
    END IF;
    BEGIN
        INSERT INTO intake.inventory (pool_no, slot_no, resource_id, label)
        SELECT config.pool_no, stock.first_slot + w.n - 1, w.resource_id, w.label
        FROM unnest(stock.resource_ids, stock.labels) WITH ORDINALITY AS w (resource_id, label, n)
        WHERE stock.first_slot + w.n - 1 > stocked;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION 'pool % would have a name twice: %', stock.pool_id,
            coalesce(intake.twice(config.pool_no, stock.first_slot, stock.resource_ids, stock.labels), SQLERRM)
            USING ERRCODE = 'IE002', HINT = 'Within a pool every resource id and every label stands once.';
    END;
    either := intake.mistakable(config.pool_no, stock.first_slot, stock.resource_ids, stock.labels);
    IF either IS NOT NULL THEN
        RAISE EXCEPTION 'pool % would have two seats of one name: %', stock.pool_id, either USING ERRCODE = 'IE002',
            HINT = 'claim_seat takes both, and who names it could mean either: give that slot another label.';
    END IF;
    RETURN (SELECT max(v.slot_no) FROM intake.inventory v WHERE v.pool_no = config.pool_no);
END $$;
COMMENT ON FUNCTION intake.stock IS 'Append own resources to a pool, from first_slot on; what is there already must be the same. Returns how many it has. seed() puts them on sale.';
