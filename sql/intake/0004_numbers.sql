-- Numbers: what the sequence of a pool gives to a claim to try, the free list, and how burnt numbers come back.
--
-- A number is a slot number. The sequence decides where a claim tries, the keys of claimed_slots decide whether it gets
-- the slot.
--
-- No function here is for callers.

CREATE UNLOGGED TABLE intake.free_numbers (
    pool_no int    NOT NULL,
    slot_no bigint NOT NULL,
    PRIMARY KEY (pool_no, slot_no)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE intake.free_numbers IS
    'The free list: numbers that the sequence has passed and no claim has. They were given back, or burnt by a claim '
    'that was rolled back.';

CREATE UNLOGGED TABLE intake.number_progress (
    pool_no   int      PRIMARY KEY,
    frontier  bigint   NOT NULL DEFAULT 0,
    undecided  bigint[] NOT NULL DEFAULT '{}',
    blockers  text[]   NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON TABLE intake.number_progress IS
    'How far recycle_numbers() has come. Every number up to frontier is claimed or free. The undecided numbers were '
    'drawn and are neither, as long as one of the blockers (virtual transactions) may still claim them.';

CREATE FUNCTION intake_private.number_sequence(pool_no int) RETURNS regclass
LANGUAGE plpgsql AS $$
BEGIN
    -- LOGGED, so that after a crash it never gives out a number again that was acknowledged.
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS intake.%I AS bigint MINVALUE 1 NO CYCLE CACHE 1',
        'numbers_' || number_sequence.pool_no);
    RETURN format('intake.%I', 'numbers_' || number_sequence.pool_no)::regclass;
END $$;
COMMENT ON FUNCTION intake_private.number_sequence IS
    'The sequence of the numbers of a pool, created if it does not exist.';

CREATE FUNCTION intake_private.drop_from_free_list(pool_no int, slot_nos bigint[]) RETURNS void
LANGUAGE sql AS $$
    -- Skip locked rows: the claim that locked them finds its number claimed and removes the row itself.
    WITH found AS MATERIALIZED (
        SELECT x.slot_no FROM intake.free_numbers x WHERE x.pool_no = drop_from_free_list.pool_no
            AND x.slot_no = ANY (drop_from_free_list.slot_nos)
        FOR UPDATE SKIP LOCKED)
    DELETE FROM intake.free_numbers f WHERE f.pool_no = drop_from_free_list.pool_no
        AND f.slot_no = ANY (ARRAY(SELECT x.slot_no FROM found x));
$$;
COMMENT ON FUNCTION intake_private.drop_from_free_list IS
    'Remove numbers that are now claimed from the free list. Skips those that another claim has locked: that claim '
    'finds them claimed and removes them itself.';

CREATE FUNCTION intake_private.give_numbers_back(pool_no int, claim_id uuid, slot_nos bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    capacity bigint := (SELECT p.capacity FROM intake.pools p WHERE p.pool_no = give_numbers_back.pool_no);
BEGIN
    DELETE FROM intake.claimed_slots cs WHERE cs.pool_no = give_numbers_back.pool_no AND cs.slot_no = ANY (slot_nos)
        AND cs.claim_id = give_numbers_back.claim_id;
    INSERT INTO intake.free_numbers (pool_no, slot_no)
    SELECT give_numbers_back.pool_no, u.slot_no FROM unnest(slot_nos) AS u (slot_no)
    WHERE u.slot_no <= capacity AND (SELECT cs.claim_id FROM intake.claimed_slots cs
        WHERE cs.pool_no = give_numbers_back.pool_no AND cs.slot_no = u.slot_no) IS NULL
    ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION intake_private.give_numbers_back IS
    'Undo a claim that did not get all its numbers: delete the slots that it got, and put what no other claim has on the '
    'free list.';

CREATE FUNCTION intake_private.transactions_on_pools() RETURNS text[]
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}')
    FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.relation = 'intake.pools'::regclass AND l.pid IS DISTINCT FROM pg_backend_pid()
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
$$;
COMMENT ON FUNCTION intake_private.transactions_on_pools IS
    'The other transactions that have read intake.pools, as virtual transaction ids. Every running claim is among '
    'them.';

CREATE FUNCTION intake_private.free_burnt_numbers(pool_no int, numbers bigint[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    freed bigint;
BEGIN
    WITH burnt AS (
        INSERT INTO intake.free_numbers (pool_no, slot_no)
        SELECT free_burnt_numbers.pool_no, n.slot_no FROM unnest(numbers) AS n (slot_no)
        WHERE NOT EXISTS (SELECT FROM intake.claimed_slots cs
            WHERE cs.pool_no = free_burnt_numbers.pool_no AND cs.slot_no = n.slot_no)
        ON CONFLICT DO NOTHING
        RETURNING 1)
    SELECT count(*) INTO freed FROM burnt;
    -- A claim by name may have taken such a number meanwhile. It inserts the key of the number into the free list
    -- first, so the INSERT above has waited for it, and this statement sees what it took.
    DELETE FROM intake.free_numbers f
    WHERE f.pool_no = free_burnt_numbers.pool_no AND f.slot_no = ANY (numbers) AND (SELECT cs.claim_id
        FROM intake.claimed_slots cs WHERE cs.pool_no = f.pool_no AND cs.slot_no = f.slot_no) IS NOT NULL;
    RETURN freed;
END $$;
COMMENT ON FUNCTION intake_private.free_burnt_numbers IS
    'Put those of the numbers on the free list that no claim has. Returns how many. Only for numbers that no running '
    'transaction can still claim.';

CREATE FUNCTION intake_private.first_unclaimed(pool_no int, slot_no bigint) RETURNS bigint
LANGUAGE sql STABLE
-- By key and in its order, whatever the statistics say, and no further than the run is long.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
    -- As long as there is no gap, each row has the number that follows the one before it.
    SELECT coalesce((
        SELECT r.next FROM (
            SELECT cs.slot_no, first_unclaimed.slot_no - 1 + row_number() OVER (ORDER BY cs.slot_no) AS next
            FROM intake.claimed_slots cs
            WHERE cs.pool_no = first_unclaimed.pool_no AND cs.slot_no >= first_unclaimed.slot_no) r
        WHERE r.slot_no <> r.next ORDER BY r.slot_no LIMIT 1), (
        SELECT max(cs.slot_no) + 1 FROM intake.claimed_slots cs
        WHERE cs.pool_no = first_unclaimed.pool_no AND cs.slot_no >= first_unclaimed.slot_no), first_unclaimed.slot_no);
$$;
COMMENT ON FUNCTION intake_private.first_unclaimed IS
    'The first number, from slot_no on, that is neither claimed nor withheld.';

CREATE FUNCTION intake_private.skip_run(pool intake.pools, slot_no bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    goal bigint := intake_private.first_unclaimed(pool.pool_no, skip_run.slot_no);
BEGIN
    -- The numbers of the run are drawn, not set: a sequence that is set could go back behind what others draw meanwhile.
    -- One session draws them. If all that meet the run did, they would draw as many again behind it, and all of those
    -- would have to come back as burnt numbers.
    IF pg_try_advisory_xact_lock(hashtext('intake.skip_run/' || pool.pool_no), goal::int) THEN
        PERFORM count(nextval(pool.number_seq))
        FROM generate_series(pg_sequence_last_value(pool.number_seq) + 1, goal - 1);
    ELSE
        -- The other session needs no lock for this, so it comes to an end. It keeps its lock until it commits, which is
        -- not waited for.
        FOR n IN 1..100 LOOP
            EXIT WHEN pg_sequence_last_value(pool.number_seq) >= goal - 1;
            PERFORM pg_sleep(0.001);
        END LOOP;
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.skip_run IS
    'Let the sequence pass a run of numbers that are claimed or withheld, of which slot_no is one, in one step. A number '
    'behind the run that is drawn with it, because others draw meanwhile, comes back as a burnt one.';

CREATE FUNCTION intake_private.take_numbers(pool intake.pools, numbers bigint[], quantity int) RETURNS bigint[]
LANGUAGE plpgsql AS $$
-- The sequence first, then the free list. A number that is claimed already is skipped: it was claimed by name, it is
-- withheld, or the sequence started over after a restore.
DECLARE
    drawn bigint;
    run   int := 0; -- claimed numbers in a row
BEGIN
    IF quantity - cardinality(numbers) > 1 AND NOT pool.sold_out THEN
        -- All at once, which is cheaper than one by one; for what is missing afterwards the loop goes on.
        SELECT numbers || coalesce(array_agg(d.slot_no), '{}') INTO numbers
        FROM (SELECT nextval(pool.number_seq) AS slot_no FROM generate_series(1, quantity - cardinality(numbers))
            OFFSET 0) d
        WHERE d.slot_no <= pool.capacity AND (SELECT cs.claim_id FROM intake.claimed_slots cs
            WHERE cs.pool_no = pool.pool_no AND cs.slot_no = d.slot_no) IS NULL;
    END IF;
    FOR n IN 1..1000 LOOP -- more runs than this take another attempt
        EXIT WHEN pool.sold_out OR cardinality(numbers) >= quantity;
        drawn := nextval(pool.number_seq);
        EXIT WHEN drawn > pool.capacity;
        IF NOT EXISTS (SELECT FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.slot_no = drawn) THEN
            numbers := numbers || drawn;
            run := 0;
        ELSIF run < 10 THEN
            run := run + 1;
        ELSE
            PERFORM intake_private.skip_run(pool, drawn);
        END IF;
    END LOOP;
    IF cardinality(numbers) < quantity THEN
        WITH found AS MATERIALIZED (
            SELECT x.slot_no FROM intake.free_numbers x WHERE x.pool_no = pool.pool_no
            LIMIT quantity - cardinality(numbers) FOR UPDATE SKIP LOCKED),
        taken AS (
            -- No join: where claim_batch() allows no nested loop it would read the whole free list for each claim.
            DELETE FROM intake.free_numbers f
            WHERE f.pool_no = pool.pool_no AND f.slot_no = ANY (ARRAY(SELECT x.slot_no FROM found x))
            RETURNING f.slot_no)
        SELECT numbers || coalesce(array_agg(t.slot_no), '{}') INTO numbers FROM taken t;
        numbers := ARRAY(SELECT u FROM unnest(numbers) u ORDER BY u);
    END IF;
    RETURN numbers;
END $$;
COMMENT ON FUNCTION intake_private.take_numbers IS
    'Append numbers to an array until it has `quantity`, or no more can be had: from the sequence first, then from the '
    'free list. The result is in the order of the numbers.';

CREATE FUNCTION intake_private.recycle_numbers(pool_no int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Sequences are not transactional: a claim that is rolled back burns its number, and so does a crash. A burnt number
-- looks like one that a running claim is about to insert. The difference: a claim reads intake.pools before it draws a
-- number, and keeps that lock until it ends. So, in this order: read how far the sequence is; note which transactions
-- have a lock on intake.pools; find the numbers without a claimed slot. When all noted transactions have ended, the
-- numbers that still have no claimed slot are burnt. Nothing waits.
DECLARE
    chunk    CONSTANT bigint := 50000; -- numbers for each call, some tens of milliseconds: it may run inside a claim
    hot      intake.pools;
    progress intake.number_progress;
    last     bigint;
    recycled bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('intake.recycle_numbers'), recycle_numbers.pool_no) THEN
        RETURN 0;
    END IF;
    SELECT p.* INTO hot FROM intake.pools p WHERE p.pool_no = recycle_numbers.pool_no;
    SELECT p.* INTO progress FROM intake.number_progress p WHERE p.pool_no = recycle_numbers.pool_no;
    IF hot.pool_no IS NULL OR progress.pool_no IS NULL THEN
        RETURN 0;
    END IF;

    -- One round, or two: the second only if the first found undecided numbers and no transaction that could still claim
    -- them.
    FOR round IN 1..2 LOOP
        IF cardinality(progress.undecided) > 0 THEN
            IF intake_private.transactions_on_pools() && progress.blockers THEN
                -- The list of blockers is not renewed before all of them have ended: renewed at every call, it would
                -- never be empty.
                RETURN recycled;
            END IF;
            recycled := recycled + intake_private.free_burnt_numbers(recycle_numbers.pool_no, progress.undecided);
        END IF;

        last := least(coalesce(pg_sequence_last_value(hot.number_seq), 0), hot.capacity, progress.frontier + chunk);
        progress.blockers := intake_private.transactions_on_pools();
        SELECT coalesce(array_agg(g.slot_no ORDER BY g.slot_no), '{}') INTO progress.undecided
        FROM generate_series(progress.frontier + 1, last) AS g (slot_no)
        WHERE NOT EXISTS (SELECT FROM intake.claimed_slots cs
                WHERE cs.pool_no = recycle_numbers.pool_no AND cs.slot_no = g.slot_no)
            AND NOT EXISTS (SELECT FROM intake.free_numbers f
                WHERE f.pool_no = recycle_numbers.pool_no AND f.slot_no = g.slot_no);
        EXIT WHEN cardinality(progress.undecided) = 0 OR cardinality(progress.blockers) > 0;
    END LOOP;

    UPDATE intake.number_progress p SET undecided = progress.undecided, blockers = progress.blockers,
        frontier = coalesce(progress.undecided[1] - 1, greatest(last, p.frontier))
    WHERE p.pool_no = recycle_numbers.pool_no
    RETURNING p.frontier INTO progress.frontier;
    IF progress.frontier >= hot.capacity AND NOT hot.sold_out THEN
        -- Compare capacity again under the lock of the row: it may have grown meanwhile.
        UPDATE intake.pools p SET sold_out = true
        WHERE p.pool_no = recycle_numbers.pool_no AND p.capacity = hot.capacity;
    END IF;
    RETURN recycled;
END $$;
COMMENT ON FUNCTION intake_private.recycle_numbers IS
    'Put burnt numbers on the free list, and set the sold-out latch once every number is claimed or free. Returns how '
    'many numbers came back. Never waits; does nothing while another session runs it.';
