-- How the slots of a pool are made: first provisioning, growth, and the rebuild after a crash, in one function.
--
-- For the operator: seed. housekeep() calls it after a crash, so bridges need not.

CREATE FUNCTION intake_private.claimed_slots_of(config intake.engine_config) RETURNS SETOF intake.claimed_slots
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN i.void THEN intake_private.voided_key(i.msg_id, i.part_no) ELSE i.slot_no END, i.msg_id,
        i.claimed_at, i.claim_id, config.pool_no, i.part_no, i.parts,
        (CASE WHEN i.void THEN 'V' WHEN i.place = 'committed' THEN 'C' WHEN i.place = 'held' THEN 'H' ELSE 'R' END)
            ::"char", i.user_id,
        intake_private.unique_key_of(CASE WHEN config.claims_per_user IS NOT NULL
            THEN row_number() OVER (PARTITION BY i.user_id ORDER BY i.claim_id, i.part_no) END, i.part_no,
            i.request_id),
        i.request_id, CASE WHEN i.void THEN i.slot_no END
    FROM (SELECT x.place, x.place IN ('voided', 'released', 'expired') AS void, x.msg_id,
            (x.seats -> x.part_no - 1 ->> 'slot_no')::bigint AS slot_no, x.part_no::smallint AS part_no,
            jsonb_array_length(x.seats)::smallint AS parts, (x.message ->> 'claim_id')::uuid AS claim_id,
            x.message ->> 'user_id' AS user_id, x.message ->> 'request_id' AS request_id,
            (x.message ->> 'claimed_at')::timestamptz AS claimed_at
        -- Most claims have one slot. jsonb_array_elements() for each of them would cost more than all of the rest.
        FROM (SELECT m.place, m.msg_id, m.message, m.message -> 'seats' AS seats,
                generate_series(1, jsonb_array_length(m.message -> 'seats')) AS part_no
            FROM intake.intents m WHERE m.message ->> 'pool_id' = config.pool_id) x
        OFFSET 0) i -- sort the columns, not the whole messages
    UNION ALL
    SELECT w.slot_no, 0, w.at, '00000000-0000-0000-0000-000000000000', w.pool_no, 0, 0, 'W', '', NULL, NULL, NULL
    FROM intake.withheld w WHERE w.pool_no = config.pool_no
$$;
COMMENT ON FUNCTION intake_private.claimed_slots_of IS
    'The claimed and withheld slots of a pool, derived from the holds, the queue, the dead letters, the archives and '
    'the withheld slots, which are all LOGGED.';

CREATE FUNCTION intake_private.rebuild_claimed_slots(config intake.engine_config) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET work_mem = '64MB' AS $$ -- a million claims are sorted while no claim can run
BEGIN
    -- Acknowledgements wait for this lock: each sees either no claimed slots yet or all of them.
    PERFORM intake_private.lock_exclusively('intake.claimed_slots');
    DELETE FROM intake.claimed_slots cs WHERE cs.pool_no = config.pool_no;
    DELETE FROM intake.free_numbers f WHERE f.pool_no = config.pool_no;
    DELETE FROM intake.number_progress t WHERE t.pool_no = config.pool_no;
    BEGIN
        -- Building both keys over all rows takes a fifth of the time of updating them row by row.
        IF EXISTS (SELECT FROM intake.claimed_slots) THEN
            INSERT INTO intake.claimed_slots SELECT * FROM intake_private.claimed_slots_of(config);
        ELSE
            ALTER TABLE intake.claimed_slots DROP CONSTRAINT claimed_slots_pkey;
            DROP INDEX intake.claimed_slots_unique_key;
            INSERT INTO intake.claimed_slots SELECT * FROM intake_private.claimed_slots_of(config);
            PERFORM intake_private.add_claim_keys();
        END IF;
    EXCEPTION WHEN unique_violation THEN
        -- Only manual changes can cause this. The first claim keeps the slot or the unique key, the sale goes on, and
        -- reconcile() reports the other claim.
        INSERT INTO intake.claimed_slots SELECT * FROM intake_private.claimed_slots_of(config) cs
        ORDER BY cs.slot_no, cs.claim_id
        ON CONFLICT DO NOTHING;
    END;
    INSERT INTO intake.number_progress (pool_no) VALUES (config.pool_no);
    -- The statistics describe the table as it was before. No statistics give safe plans; statistics of an empty table
    -- do not.
    PERFORM pg_clear_relation_stats('intake', 'claimed_slots');
END $$;
COMMENT ON FUNCTION intake_private.rebuild_claimed_slots IS
    'Part of seed(): delete the claimed slots of a pool and make them again from what is LOGGED. Raises IE008 if other '
    'sessions keep the table locked for 60 s.';

CREATE FUNCTION intake.seed(pool_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config          intake.engine_config := intake_private.config_of(seed.pool_id);
    number_seq      regclass;
    has_hot         boolean;
    resource_prefix text := CASE WHEN NOT config.own_resources
        THEN intake_private.resource_prefix_of(config.pool_id) END;
    in_stock        bigint;
    seeded          bigint;
    added           bigint;
BEGIN
    -- Operator and bridges may all call this at once: the first one does the rebuild, the others find it done.
    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);
    SELECT c.* INTO config FROM intake.engine_config c WHERE c.pool_id = seed.pool_id FOR UPDATE;
    has_hot := EXISTS (SELECT FROM intake.pools p WHERE p.pool_id = seed.pool_id);

    IF NOT has_hot THEN
        PERFORM intake_private.rebuild_claimed_slots(config);
        number_seq := intake_private.number_sequence(config.pool_no);
    END IF;

    SELECT coalesce(max(s.slot_no), 0) INTO seeded FROM intake.slots s WHERE s.pool_no = config.pool_no;
    IF config.own_resources THEN
        in_stock := (SELECT coalesce(max(v.slot_no), 0) FROM intake.inventory v WHERE v.pool_no = config.pool_no);
        IF in_stock < config.inventory_size THEN
            RAISE EXCEPTION 'pool % has % of % resources', config.pool_id, in_stock, config.inventory_size
                USING ERRCODE = 'IE005', HINT = 'Add the missing ones with intake.stock(), then call seed() again.';
        END IF;
        INSERT INTO intake.slots (pool_no, slot_no, resource_id, label, attributes)
        SELECT v.pool_no, v.slot_no, v.resource_id, v.label, v.attributes FROM intake.inventory v
        WHERE v.pool_no = config.pool_no AND v.slot_no > seeded AND v.slot_no <= config.inventory_size;
    ELSE
        INSERT INTO intake.slots (pool_no, slot_no, resource_id)
        SELECT config.pool_no, g, intake_private.resource_of(resource_prefix, g)
        FROM generate_series(seeded + 1, config.inventory_size) AS g;
    END IF;
    GET DIAGNOSTICS added = ROW_COUNT;

    IF has_hot THEN
        UPDATE intake.pools p SET capacity = config.inventory_size, sold_out = false
        WHERE p.pool_id = seed.pool_id AND p.capacity < config.inventory_size;
    ELSE
        UPDATE intake.engine_config c SET epoch = c.epoch + 1 WHERE c.pool_id = seed.pool_id
        RETURNING c.* INTO config;
        INSERT INTO intake.pools (pool_id, pool_no, epoch, capacity, claims_per_user, max_payload_bytes, hold_seconds,
            opens_at, closes_at, paused, sealed, by_name, resource_prefix, number_seq)
        VALUES (config.pool_id, config.pool_no, config.epoch, config.inventory_size, config.claims_per_user,
            config.max_payload_bytes, config.hold_seconds, config.opens_at, config.closes_at, config.paused,
            config.sealed_at IS NOT NULL,
            -- Before the crash some slots may have been claimed by name.
            config.own_resources OR config.epoch > 1, resource_prefix, number_seq);
        PERFORM intake_private.recycle_numbers(config.pool_no);
    END IF;
    IF added > 0 THEN
        ANALYZE intake.slots;
    END IF;
    RETURN added;
END $$;
COMMENT ON FUNCTION intake.seed IS
    'Make the inventory of a configured pool: first provisioning, growth, and the rebuild after a crash. Safe to '
    'repeat. Returns how many slots it added. Raises IE001 for an unknown pool, IE005 if the pool brings its own '
    'resources and some are missing, IE008 if other sessions keep the table locked for 60 s that a rebuild needs.';
