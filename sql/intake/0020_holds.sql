-- Holds: claims that wait for the buyer, where a pool has holdSeconds.
--
-- For claimer: confirm_claim, extend_hold.
--
-- A hold has its slots, and no message: its message lies in intake.holds until confirm_claim() moves it to the queue.
-- No bridge ever had it, so no ledger needs to be asked before its slots are free again. Confirmation, extension,
-- release and expiry lock its row: of those that come at once one takes effect, and the others wait for it and see it.
-- The clock of DB1 decides which of them may.

CREATE FUNCTION intake_private.end_holds(config intake.engine_config, claim_ids uuid[], ended text, remark jsonb)
RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$ -- by key, whatever the statistics say of a growing table
#variable_conflict use_column
DECLARE
    holds    bigint;
    slot_nos bigint[];
    claimed  uuid[];
BEGIN
    WITH done AS (
        UPDATE intake.holds h SET ended = end_holds.ended, ended_at = clock_timestamp(),
            message = h.message || end_holds.remark
        WHERE h.claim_id = ANY (end_holds.claim_ids)
        RETURNING h.claim_id, h.message -> 'seats' AS seats)
    SELECT count(*) FILTER (WHERE s.n = 1), array_agg((s.seat ->> 'slot_no')::bigint), array_agg(d.claim_id)
    INTO holds, slot_nos, claimed
    FROM done d CROSS JOIN LATERAL jsonb_array_elements(d.seats) WITH ORDINALITY AS s (seat, n);
    PERFORM intake_private.record_outcomes(config.pool_id, slot_nos, claimed,
        array_fill(end_holds.ended, ARRAY[coalesce(cardinality(slot_nos), 0)]));
    RETURN holds;
END $$;
COMMENT ON FUNCTION intake_private.end_holds IS
    'End holds that the caller has found and locked, as expired or released, and free their slots. Returns how many.';

CREATE FUNCTION intake_private.release_hold(config intake.engine_config, claim_id uuid, reason text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    hold intake.holds;
BEGIN
    SELECT h.* INTO hold FROM intake.holds h
    WHERE h.claim_id = release_hold.claim_id FOR UPDATE;
    IF NOT FOUND OR hold.pool_no <> config.pool_no OR hold.ended IS NOT NULL
            OR hold.expires_at <= clock_timestamp() THEN
        RETURN false;
    END IF;
    PERFORM intake_private.end_holds(config, ARRAY[release_hold.claim_id], 'released', jsonb_build_object('release',
        jsonb_build_object('reason', release_hold.reason, 'at', clock_timestamp())));
    RETURN true;
END $$;
COMMENT ON FUNCTION intake_private.release_hold IS
    'Free the slots of a hold. False: the claim is not held, or its hold is over.';

CREATE FUNCTION intake_private.expire_holds(config intake.engine_config) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    overdue uuid[];
BEGIN
    -- While seed() rebuilds the claimed slots this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    -- A hold that is locked is being confirmed, extended or released at this moment: it is looked at in the next call.
    SELECT array_agg(h.claim_id) INTO overdue FROM (
        SELECT x.claim_id FROM intake.holds x
        WHERE x.pool_no = config.pool_no AND x.ended IS NULL AND x.expires_at <= clock_timestamp()
        FOR UPDATE SKIP LOCKED) h;
    IF overdue IS NULL THEN
        RETURN 0;
    END IF;
    RETURN intake_private.end_holds(config, overdue, 'expired', '{}');
END $$;
COMMENT ON FUNCTION intake_private.expire_holds IS
    'End the holds that were not confirmed in time, and free their slots. Returns how many.';

CREATE FUNCTION intake_private.forget_ended_holds(config intake.engine_config) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
-- A user may hold and give back again and again, so the rows of ended holds do not stay for ever. With claimsPerUser
-- two claims of a user do, those with the first and the last unique key. The first says that the user has claims. The
-- next claim takes the key after the last: if that row went, two claims that run at once could get different keys
-- without seeing each other, and exceed the limit. Other keys can go: no claim can still be about to take one. It would
-- have read the keys of its user before that one was taken, and a claim ends within seconds (end_overdue()).
DECLARE
    remember  CONSTANT interval := '15 minutes';
    limited   boolean;
BEGIN
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    -- From the hot row, whose table stays locked: configure() changes all unique keys when this has committed.
    SELECT p.claims_per_user IS NOT NULL INTO limited FROM intake.pools p WHERE p.pool_no = config.pool_no;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WITH old AS MATERIALIZED (
        SELECT h.claim_id, h.msg_id, h.message ->> 'user_id' AS user_id, h.ended,
            jsonb_array_length(h.message -> 'seats') AS parts FROM intake.holds h
        WHERE h.pool_no = config.pool_no AND h.ended IS NOT NULL AND h.ended_at < clock_timestamp() - remember
        ORDER BY h.ended_at LIMIT 20000 FOR UPDATE SKIP LOCKED),
    last_key AS MATERIALIZED ( -- once for each user, who may have thousands of them
        SELECT u.user_id, (SELECT max(cs.unique_key::bigint) FROM intake.claimed_slots cs
            WHERE cs.pool_no = config.pool_no AND cs.user_id = u.user_id) AS key
        FROM (SELECT DISTINCT o.user_id FROM old o WHERE limited) u),
    part AS MATERIALIZED (
        SELECT o.claim_id, k.slot_no, (SELECT cs.unique_key FROM intake.claimed_slots cs
            WHERE cs.pool_no = config.pool_no AND cs.slot_no = k.slot_no) AS unique_key, o.user_id
        FROM old o CROSS JOIN LATERAL (SELECT intake_private.voided_key(o.msg_id, g) AS slot_no
            FROM generate_series(1, o.parts) g) k),
    needed AS MATERIALIZED (
        SELECT p.claim_id FROM part p JOIN last_key l ON l.user_id = p.user_id
        WHERE p.unique_key::bigint IN (1, l.key)),
    kept AS ( -- and looked at again after the same time
        UPDATE intake.holds h SET ended_at = clock_timestamp()
        WHERE h.claim_id = ANY (ARRAY(SELECT n.claim_id FROM needed n))),
    gone AS MATERIALIZED (
        DELETE FROM intake.holds h
        WHERE h.claim_id = ANY (ARRAY(SELECT o.claim_id FROM old o EXCEPT SELECT n.claim_id FROM needed n))
        RETURNING h.claim_id, h.ended),
    slots AS (
        DELETE FROM intake.claimed_slots cs WHERE cs.pool_no = config.pool_no
            AND cs.slot_no = ANY (ARRAY(SELECT p.slot_no FROM part p JOIN gone g ON g.claim_id = p.claim_id)))
    INSERT INTO intake.ended_holds AS e (pool_no, expired, released)
    SELECT config.pool_no, count(*) FILTER (WHERE g.ended = 'expired'), count(*) FILTER (WHERE g.ended = 'released')
    FROM gone g HAVING count(*) > 0
    ON CONFLICT ON CONSTRAINT ended_holds_pkey DO UPDATE SET expired = e.expired + excluded.expired,
        released = e.released + excluded.released;
END $$;
COMMENT ON FUNCTION intake_private.forget_ended_holds IS
    'Delete holds that ended without a confirmation 15 minutes ago or earlier, up to 20000, and count them in '
    'ended_holds. A request that made one of them is then unknown.';

CREATE FUNCTION intake_private.after_hold(pool_no int, claim_id uuid, user_id text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN m.message ->> 'user_id' = after_hold.user_id
        THEN m.message || jsonb_build_object('now', intake_private.state_of(f.claimed)) END
    FROM (SELECT intake_private.claimed_slot_of(after_hold.pool_no, after_hold.claim_id) AS claimed OFFSET 0) f
    CROSS JOIN LATERAL (SELECT intake_private.message_of(f.claimed) AS message OFFSET 0) m
    WHERE (f.claimed).claim_id IS NOT NULL
$$;
COMMENT ON FUNCTION intake_private.after_hold IS
    'The message of a claim of this user, with its state in `now`; NULL if the user has no such claim in the pool.';

CREATE FUNCTION intake_private.queue_hold(hold intake.holds, payload jsonb, at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    -- A new id: what has waited longest on the queue has the lowest (in_flight_and_oldest()).
    queue_id CONSTANT bigint := nextval('pgmq.q_intake_queue_msg_id_seq');
    message  jsonb := hold.message || jsonb_build_object('confirmed_at', at);
    slot_nos CONSTANT bigint[] := ARRAY(SELECT s.slot_no FROM intake_private.seats_in(hold.message) s);
    number   bigint;
BEGIN
    IF payload IS NOT NULL THEN
        -- The first one stays for the comparison with a repeated claim.
        message := message || jsonb_build_object('payload', payload, 'first_payload', message -> 'payload');
    END IF;
    -- One by one: for several, a plan made without statistics reads all claimed slots of the pool.
    FOREACH number IN ARRAY slot_nos LOOP
        UPDATE intake.claimed_slots cs SET status = 'R', msg_id = queue_id
        WHERE cs.pool_no = hold.pool_no AND cs.slot_no = number AND cs.claim_id = hold.claim_id;
    END LOOP;
    INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
    VALUES (queue_id, at, message, hold.headers);
END $$;
COMMENT ON FUNCTION intake_private.queue_hold IS
    'Put the message of a hold that was just deleted on the queue, with the payload of its confirmation, if there is '
    'one.';

CREATE FUNCTION intake.confirm_claim(pool_id text, claim_id uuid, user_id text, payload jsonb DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$ -- by key, whatever the statistics say of growing tables
#variable_conflict use_column
DECLARE
    at                timestamptz := clock_timestamp();
    in_pool           int;
    max_payload_bytes int;
    hold              intake.holds;
    message           jsonb;
    now               text;
BEGIN
    PERFORM intake_private.require_durable_commit();
    -- Before the first snapshot: while seed() rebuilds the claimed slots this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    SELECT p.pool_no, p.max_payload_bytes INTO in_pool, max_payload_bytes
    FROM intake.pools p WHERE p.pool_id = confirm_claim.pool_id;
    IF confirm_claim.payload IS NOT NULL THEN
        PERFORM intake_private.check_payload('confirm_claim', confirm_claim.payload, max_payload_bytes);
    END IF;
    IF in_pool IS NULL THEN
        PERFORM intake_private.config_of(confirm_claim.pool_id);
        RETURN 'not_ready';
    END IF;
    LOOP
        -- CASE, so that no other index than that of the claim fits: those on pool_no would read all holds.
        DELETE FROM intake.holds h WHERE h.claim_id = confirm_claim.claim_id AND CASE WHEN h.pool_no = in_pool
            AND h.ended IS NULL AND h.expires_at > clock_timestamp()
            AND h.message ->> 'user_id' = confirm_claim.user_id THEN true END
        RETURNING h.* INTO hold;
        IF FOUND THEN
            PERFORM intake_private.queue_hold(hold, confirm_claim.payload, at);
            RETURN 'confirmed';
        END IF;
        -- Wait for an extension that is running. If there is one, look again.
        PERFORM FROM intake.holds h WHERE h.claim_id = confirm_claim.claim_id FOR UPDATE;
        message := intake_private.after_hold(in_pool, confirm_claim.claim_id, confirm_claim.user_id);
        IF message IS NULL THEN
            RETURN 'unknown';
        END IF;
        EXIT WHEN message ->> 'now' <> 'held';
    END LOOP;
    PERFORM intake_private.wait_for_standby();
    now := message ->> 'now';
    IF now = 'expired' OR now = 'released' AND NOT message ? 'confirmed_at' THEN
        RETURN now;
    ELSIF confirm_claim.payload <> message -> 'payload' AND NOT message ? 'restored' THEN
        RAISE EXCEPTION 'this claim is on its way with another payload' USING ERRCODE = 'IE009',
            HINT = 'That one stays. Repeat a confirmation with the same payload, or with NULL.';
    END IF;
    RETURN 'replayed';
END $$;
COMMENT ON FUNCTION intake.confirm_claim IS
    'Send a held claim on its way to the ledger. Its payload, if one is given, replaces that of the claim. Safe to '
    'repeat. confirmed; replayed: it was confirmed before, or needed no confirmation; expired, released: the hold is '
    'over; unknown: this user has no such claim; not_ready. Raises IE001 for an unknown pool, IE002 for a bad payload '
    'or where synchronous_commit is off, IE009 for another payload than it was confirmed with.';

CREATE FUNCTION intake.extend_hold(pool_id text, claim_id uuid, user_id text, OUT outcome text,
    OUT expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    config  intake.engine_config := intake_private.config_of(extend_hold.pool_id);
    message jsonb;
BEGIN
    IF config.extend_seconds IS NULL THEN
        RAISE EXCEPTION 'pool % extends no holds', quote_literal(extend_hold.pool_id) USING ERRCODE = 'IE002',
            HINT = 'Set spec.checkout.extendSeconds.';
    END IF;
    PERFORM intake_private.require_durable_commit();
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        outcome := 'not_ready';
        RETURN;
    END IF;
    UPDATE intake.holds h SET extended = true, expires_at = h.expires_at + make_interval(secs => config.extend_seconds)
    WHERE h.claim_id = extend_hold.claim_id AND CASE WHEN h.pool_no = config.pool_no -- as in confirm_claim()
        AND h.ended IS NULL AND NOT h.extended AND h.expires_at > clock_timestamp()
        AND h.message ->> 'user_id' = extend_hold.user_id THEN true END
    RETURNING h.expires_at INTO expires_at;
    IF FOUND THEN
        outcome := 'extended';
        RETURN;
    END IF;
    PERFORM FROM intake.holds h WHERE h.claim_id = extend_hold.claim_id FOR UPDATE; -- wait for whoever is at it
    message := intake_private.after_hold(config.pool_no, extend_hold.claim_id, extend_hold.user_id);
    outcome := CASE WHEN message IS NULL THEN 'unknown' WHEN message ->> 'now' = 'held' THEN 'replayed'
        WHEN message ->> 'now' = 'expired' OR message ->> 'now' = 'released' AND NOT message ? 'confirmed_at'
            THEN message ->> 'now' ELSE 'confirmed' END;
    SELECT h.expires_at INTO expires_at FROM intake.holds h
    WHERE outcome = 'replayed' AND h.claim_id = extend_hold.claim_id;
    PERFORM intake_private.wait_for_standby();
END $$;
COMMENT ON FUNCTION intake.extend_hold IS
    'Give a hold extendSeconds more, once. Safe to repeat. extended; replayed: it was extended before; confirmed: it '
    'no longer waits; expired, released: it is over; unknown: this user has no such claim; not_ready. Raises IE001 for an '
    'unknown pool, IE002 where the pool extends no holds, or where synchronous_commit is off.';

GRANT EXECUTE ON FUNCTION intake.confirm_claim, intake.extend_hold TO claimer;
