-- Slots that are withheld from sale: house seats, a seat that the box office has sold.
--
-- For the operator: withhold_slots, return_slots, withheld_slots, find_slots.
--
-- A withheld slot has a row in claimed_slots like a claimed one, so the primary key refuses every claim of it, and its
-- number is claimed for the sequence, the free list and the sold-out latch. What is LOGGED is intake.withheld, from
-- which seed() makes these rows again after a crash.

CREATE FUNCTION intake_private.withhold(pool_no int, slot_nos bigint[], actor text, reason text) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    done bigint[];
BEGIN
    WITH taken AS (
        INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, locked_at, claim_id, part_no, parts, status,
            user_id)
        SELECT withhold.pool_no, s.slot_no, 0, clock_timestamp(), '00000000-0000-0000-0000-000000000000', 0, 0, 'W', ''
        FROM (SELECT DISTINCT u FROM unnest(slot_nos) u ORDER BY u) AS s (slot_no)
        ON CONFLICT DO NOTHING
        RETURNING claimed_slots.slot_no, claimed_slots.locked_at),
    kept AS (
        INSERT INTO intake.withheld (pool_no, slot_no, at, actor, reason)
        SELECT withhold.pool_no, t.slot_no, t.locked_at, withhold.actor, withhold.reason FROM taken t)
    SELECT coalesce(array_agg(t.slot_no ORDER BY t.slot_no), '{}') INTO done FROM taken t;
    DELETE FROM intake.free_numbers f USING unnest(done) AS d (slot_no)
    WHERE f.pool_no = withhold.pool_no AND f.slot_no = d.slot_no;
    RETURN done;
END $$;
COMMENT ON FUNCTION intake_private.withhold IS
    'Withhold those of the slots that are neither claimed nor withheld. Returns them. Only for slots that no running '
    'claim can be about to take.';

CREATE FUNCTION intake_private.slot_ranges(slot_nos bigint[]) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN (SELECT coalesce(string_agg(CASE WHEN r.first = r.last THEN r.first::text ELSE r.first || '-' || r.last END,
        ', ' ORDER BY r.first), '')
    FROM (SELECT min(n.slot_no) AS first, max(n.slot_no) AS last
        FROM (SELECT s AS slot_no, s - row_number() OVER (ORDER BY s) AS run FROM unnest(slot_nos) s) n
        GROUP BY n.run) r);
COMMENT ON FUNCTION intake_private.slot_ranges IS
    'Slot numbers as people write them, such as 1-100, 205. No number may be there twice.';

CREATE FUNCTION intake_private.stop_claims(pool_id text, slot_nos bigint[]) RETURNS intake.pools
LANGUAGE plpgsql AS $$
DECLARE
    hot intake.pools;
BEGIN
    IF coalesce(cardinality(slot_nos), 0) NOT BETWEEN 1 AND 10000 OR array_position(slot_nos, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'slot_nos is 1 to 10000 slot numbers' USING ERRCODE = 'IE002',
            HINT = 'Split more slots into several calls: claims wait meanwhile.';
    END IF;
    PERFORM intake_private.require_durable_commit();
    -- Before the first snapshot: while seed() rebuilds the claimed slots this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    -- The barrier of seal(): no claim is running, and those that come later wait until this transaction ends, for some
    -- milliseconds. So every number that the sequence has passed is claimed, free or burnt, and no running
    -- claim has drawn one. A claim of several slots cannot deadlock with this. No session is ended for it.
    PERFORM intake_private.lock_exclusively('intake.pools', '1 h', '15 s');
    PERFORM intake_private.ready_config(stop_claims.pool_id);
    SELECT p.* INTO hot FROM intake.pools p WHERE p.pool_id = stop_claims.pool_id;
    RETURN hot;
END $$;
COMMENT ON FUNCTION intake_private.stop_claims IS
    'Let no claim run until this transaction ends, and return the hot row. Raises IE001 for an unknown pool, IE002 for '
    'no slots, too many, or where synchronous_commit is off, IE007 while the pool is being (re)built, IE008 if other '
    'sessions keep intake.pools locked for 15 s.';

CREATE FUNCTION intake.withhold_slots(pool_id text, slot_nos bigint[], actor text, reason text)
RETURNS TABLE (slot_no bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    hot  intake.pools := intake_private.stop_claims(withhold_slots.pool_id, slot_nos);
    done bigint[];
BEGIN
    done := intake_private.withhold(hot.pool_no, ARRAY(SELECT u FROM unnest(slot_nos) u
        WHERE u BETWEEN 1 AND hot.capacity), withhold_slots.actor, withhold_slots.reason);
    PERFORM intake_private.record_audit(withhold_slots.pool_id, 'withhold', withhold_slots.actor,
        withhold_slots.reason, jsonb_build_object('withheld', intake_private.slot_ranges(done)));
    RETURN QUERY
    SELECT s.slot_no, CASE WHEN d.slot_no IS NOT NULL THEN 'withheld' WHEN cs.status = 'W' THEN 'already'
        WHEN cs.slot_no IS NOT NULL THEN 'claimed' ELSE 'unknown' END
    FROM (SELECT DISTINCT u FROM unnest(slot_nos) u) AS s (slot_no)
    LEFT JOIN unnest(done) AS d (slot_no) ON d.slot_no = s.slot_no
    LEFT JOIN intake.claimed_slots cs ON cs.pool_no = hot.pool_no AND cs.slot_no = s.slot_no AND s.slot_no > 0
    ORDER BY s.slot_no;
END $$;
COMMENT ON FUNCTION intake.withhold_slots IS
    'Take 1 to 10000 slots off sale, until return_slots(). Returns a row for each slot: withheld, already, claimed (it '
    'has been sold, or may be, and stays so) or unknown (the pool has no such slot). Claims wait meanwhile. Safe to '
    'repeat. Recorded in intake.audit. Raises IE001 for an unknown pool, IE002 for no slots or too many, without an '
    'actor and a reason, or where synchronous_commit is off, IE007 while the pool is being (re)built, IE008 if other '
    'sessions keep intake.pools locked for 15 s.';

CREATE FUNCTION intake.return_slots(pool_id text, slot_nos bigint[], actor text, reason text)
RETURNS TABLE (slot_no bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    hot  intake.pools := intake_private.stop_claims(return_slots.pool_id, slot_nos);
    done bigint[];
BEGIN
    WITH given AS (
        DELETE FROM intake.withheld w USING (SELECT DISTINCT u FROM unnest(slot_nos) u) AS s (slot_no)
        WHERE w.pool_no = hot.pool_no AND w.slot_no = s.slot_no
        RETURNING w.slot_no),
    free AS (
        DELETE FROM intake.claimed_slots cs USING given g
        WHERE cs.pool_no = hot.pool_no AND cs.slot_no = g.slot_no AND cs.status = 'W'
        RETURNING cs.slot_no)
    SELECT coalesce(array_agg(f.slot_no ORDER BY f.slot_no), '{}') INTO done FROM free f;
    -- The sequence will come to the others.
    INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT hot.pool_no, d FROM unnest(done) d
    WHERE d <= coalesce(pg_sequence_last_value(hot.number_seq), 0)
    ON CONFLICT DO NOTHING;
    PERFORM intake_private.record_audit(return_slots.pool_id, 'return', return_slots.actor, return_slots.reason,
        jsonb_build_object('returned', intake_private.slot_ranges(done)));
    RETURN QUERY
    SELECT s.slot_no, CASE WHEN d.slot_no IS NOT NULL THEN 'returned'
        WHEN s.slot_no BETWEEN 1 AND hot.capacity THEN 'not_withheld' ELSE 'unknown' END
    FROM (SELECT DISTINCT u FROM unnest(slot_nos) u) AS s (slot_no)
    LEFT JOIN unnest(done) AS d (slot_no) ON d.slot_no = s.slot_no
    ORDER BY s.slot_no;
END $$;
COMMENT ON FUNCTION intake.return_slots IS
    'Put 1 to 10000 withheld slots on sale again. Returns a row for each slot: returned, not_withheld or unknown (the '
    'pool has no such slot). Claims wait meanwhile. Safe to repeat. Recorded in intake.audit. Raises what '
    'withhold_slots() raises.';

CREATE FUNCTION intake.withheld_slots(pool_id text, after bigint DEFAULT 0, max_slots int DEFAULT 1000)
RETURNS TABLE (slot_no bigint, resource_id uuid, label text, withheld_at timestamptz, actor text, reason text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(withheld_slots.pool_id);
BEGIN
    RETURN QUERY
    SELECT w.slot_no, s.resource_id, s.label, w.at, w.actor, w.reason FROM intake.withheld w
    LEFT JOIN intake.slots s ON s.pool_no = w.pool_no AND s.slot_no = w.slot_no
    WHERE w.pool_no = config.pool_no AND w.slot_no > withheld_slots.after
    ORDER BY w.slot_no LIMIT withheld_slots.max_slots;
END $$;
COMMENT ON FUNCTION intake.withheld_slots IS
    'The withheld slots of a pool in their order, after the slot `after`, with who withheld each and why. resource_id '
    'and label are NULL while the pool is being rebuilt. Raises IE001 for an unknown pool.';

CREATE FUNCTION intake.find_slots(pool_id text, seats text[]) RETURNS TABLE (seat text, slot_no bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.ready_config(find_slots.pool_id);
BEGIN
    -- As claim_seats() finds them. No label is the id of another slot.
    RETURN QUERY
    SELECT u.seat, coalesce(
        (SELECT s.slot_no FROM intake.slots s WHERE s.pool_no = config.pool_no AND s.label = normalize(u.seat, NFC)),
        (SELECT s.slot_no FROM intake.slots s
            WHERE s.pool_no = config.pool_no AND s.resource_id = intake_private.label_as_uuid(u.seat)))
    FROM unnest(seats) WITH ORDINALITY AS u (seat, n) ORDER BY u.n;
END $$;
COMMENT ON FUNCTION intake.find_slots IS
    'The slot of each seat, which is named by its label or resource id; NULL where the pool has no such seat. Raises '
    'IE001 for an unknown pool, IE007 while it is being (re)built.';
