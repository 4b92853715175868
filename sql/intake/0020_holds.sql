-- Holds: claims that wait for the buyer, where a pool has holdSeconds.
--
-- For claimer: confirm_claim, extend_hold.
--
-- A hold has its slots, and no message: its message lies in intake.holds until confirm_claim() moves it to the queue.
-- No bridge ever had it, so no ledger needs to be asked before its slots are free again. Whether it can still be
-- confirmed is judged by the clock of DB1 under the lock of its row, so a confirmation and the end of the hold never
-- both take effect.

CREATE FUNCTION intake_private.end_holds(config intake.engine_config, claim_ids uuid[], ended text, remark jsonb)
RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$ -- by key, whatever the statistics say of a growing table
#variable_conflict use_column
DECLARE
    holds     bigint;
    slot_nos  bigint[];
    claimed   uuid[];
BEGIN
    WITH done AS (
        UPDATE intake.holds h SET ended = end_holds.ended, ended_at = clock_timestamp(),
            message = h.message || end_holds.remark
        WHERE h.claim_id = ANY (end_holds.claim_ids) AND h.ended IS NULL
        RETURNING h.claim_id, h.message -> 'seats' AS seats)
    SELECT count(DISTINCT d.claim_id), array_agg((s.seat ->> 'slot_no')::bigint), array_agg(d.claim_id)
    INTO holds, slot_nos, claimed FROM done d CROSS JOIN LATERAL jsonb_array_elements(d.seats) AS s (seat);
    PERFORM intake_private.record_outcomes(config.pool_id, slot_nos, claimed,
        array_fill(end_holds.ended, ARRAY[coalesce(cardinality(slot_nos), 0)]));
    RETURN holds;
END $$;
COMMENT ON FUNCTION intake_private.end_holds IS
    'End holds that the caller has locked, as expired or released, and free their slots. Returns how many.';

CREATE FUNCTION intake_private.release_hold(config intake.engine_config, claim_id uuid, reason text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM intake.holds h WHERE h.claim_id = release_hold.claim_id AND h.pool_no = config.pool_no
        AND h.ended IS NULL AND h.expires_at > clock_timestamp() FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM intake_private.end_holds(config, ARRAY[release_hold.claim_id], 'released', jsonb_build_object('release',
        jsonb_build_object('reason', release_hold.reason, 'at', clock_timestamp())));
    RETURN true;
END $$;
COMMENT ON FUNCTION intake_private.release_hold IS
    'Free the slots of a hold. False: the claim is not held, or its hold is over.';

CREATE FUNCTION intake_private.expire_holds(config intake.engine_config) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    overdue uuid[];
BEGIN
    -- While seed() rebuilds the claimed slots this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
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

CREATE FUNCTION intake_private.forget_ended_holds(config intake.engine_config) RETURNS bigint
LANGUAGE plpgsql AS $$
-- A user may hold and give back again and again, so the rows of ended holds do not stay for ever. With claimsPerUser
-- the rows with the first and the last unique key of a user do: the first says that the user has claims, and the next
-- claim takes the key after the last. They are looked at again after the same time. A claim that has read the keys of
-- its user ends long before (end_overdue), so none can still take a key that another claim has seen.
DECLARE
    remember CONSTANT interval := '15 minutes';
    forgotten bigint;
BEGIN
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    WITH old AS MATERIALIZED (
        SELECT h.claim_id, h.msg_id, h.message ->> 'user_id' AS user_id, h.ended FROM intake.holds h
        WHERE h.pool_no = config.pool_no AND h.ended IS NOT NULL AND h.ended_at < clock_timestamp() - remember
        ORDER BY h.ended_at LIMIT 5000 FOR UPDATE SKIP LOCKED),
    part AS MATERIALIZED (
        SELECT o.claim_id, cs.slot_no, config.claims_per_user IS NOT NULL AND (cs.unique_key::bigint = 1
            OR cs.unique_key::bigint = (SELECT max(x.unique_key::bigint) FROM intake.claimed_slots x
                WHERE x.pool_no = config.pool_no AND x.user_id = o.user_id)) AS needed
        FROM old o CROSS JOIN LATERAL generate_series(1, 100) g
        JOIN intake.claimed_slots cs ON cs.pool_no = config.pool_no
            AND cs.slot_no = intake_private.voided_key(o.msg_id, g) AND cs.claim_id = o.claim_id),
    kept AS (
        UPDATE intake.holds h SET ended_at = clock_timestamp()
        WHERE h.claim_id IN (SELECT p.claim_id FROM part p WHERE p.needed)),
    gone AS (
        DELETE FROM intake.holds h USING old o WHERE h.claim_id = o.claim_id
            AND NOT EXISTS (SELECT FROM part p WHERE p.claim_id = o.claim_id AND p.needed)
        RETURNING h.claim_id, h.ended),
    slots AS (
        DELETE FROM intake.claimed_slots cs USING part p, gone g
        WHERE cs.pool_no = config.pool_no AND cs.slot_no = p.slot_no AND p.claim_id = g.claim_id)
    INSERT INTO intake.ended_holds AS e (pool_no, expired, released)
    SELECT config.pool_no, count(*) FILTER (WHERE g.ended = 'expired'), count(*) FILTER (WHERE g.ended = 'released')
    FROM gone g HAVING count(*) > 0
    ON CONFLICT ON CONSTRAINT ended_holds_pkey DO UPDATE SET expired = e.expired + excluded.expired,
        released = e.released + excluded.released;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END $$;
COMMENT ON FUNCTION intake_private.forget_ended_holds IS
    'Delete holds that ended without a confirmation 15 minutes ago or earlier, up to 5000, and count them in '
    'ended_holds. A request that made one of them is then unknown. Returns 1 if there were any.';

CREATE FUNCTION intake_private.after_hold(config intake.engine_config, claim_id uuid, user_id text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN m.message ->> 'user_id' = after_hold.user_id
        THEN m.message || jsonb_build_object('now', intake_private.state_of(f.claimed)) END
    FROM (SELECT intake_private.claimed_slot_of(config.pool_no, after_hold.claim_id) AS claimed OFFSET 0) f
    CROSS JOIN LATERAL (SELECT intake_private.message_of(f.claimed) AS message OFFSET 0) m
    WHERE (f.claimed).claim_id IS NOT NULL
$$;
COMMENT ON FUNCTION intake_private.after_hold IS
    'The message of a claim of this user, with its state in `now`; NULL if the user has no such claim in the pool.';

CREATE FUNCTION intake.confirm_claim(pool_id text, claim_id uuid, user_id text, payload jsonb DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at      timestamptz := clock_timestamp();
    config  intake.engine_config := intake_private.config_of(confirm_claim.pool_id);
    hold    intake.holds;
    message jsonb;
BEGIN
    PERFORM intake_private.require_durable_commit();
    PERFORM intake_private.check_payload('confirm_claim', confirm_claim.payload, config.max_payload_bytes);
    -- Before the first snapshot: while seed() rebuilds the claimed slots this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        RETURN 'not_ready';
    END IF;
    DELETE FROM intake.holds h WHERE h.claim_id = confirm_claim.claim_id AND h.pool_no = config.pool_no
        AND h.ended IS NULL AND h.expires_at > clock_timestamp() AND h.message ->> 'user_id' = confirm_claim.user_id
    RETURNING h.* INTO hold;
    IF FOUND THEN
        message := hold.message || jsonb_build_object('confirmed_at', at);
        IF confirm_claim.payload IS NOT NULL THEN
            -- The first one stays for the comparison with a repeated claim.
            message := message || jsonb_build_object('payload', confirm_claim.payload,
                'first_payload', message -> 'payload');
        END IF;
        UPDATE intake.claimed_slots cs SET status = 'R'
        FROM jsonb_array_elements(message -> 'seats') AS s (seat)
        WHERE cs.pool_no = config.pool_no AND cs.slot_no = (s.seat ->> 'slot_no')::bigint
            AND cs.claim_id = hold.claim_id;
        INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
        VALUES (hold.msg_id, at, message, hold.headers);
        RETURN 'confirmed';
    END IF;
    message := intake_private.after_hold(config, confirm_claim.claim_id, confirm_claim.user_id);
    IF message IS NULL THEN
        RETURN 'unknown';
    END IF;
    PERFORM intake_private.wait_for_standby();
    IF message ->> 'now' = 'expired' OR message ->> 'now' = 'released' AND NOT message ? 'confirmed_at' THEN
        RETURN message ->> 'now';
    ELSIF confirm_claim.payload <> message -> 'payload' AND NOT message ? 'restored' THEN
        PERFORM intake_private.refuse_repeat('payload');
    END IF;
    RETURN 'replayed';
END $$;
COMMENT ON FUNCTION intake.confirm_claim IS
    'Send a held claim on its way to the ledger. Its payload, if one is given, replaces that of the claim. Safe to '
    'repeat. confirmed; replayed: it was confirmed before, or needed no confirmation; expired, released: the hold is '
    'over; unknown: this user has no such claim; not_ready. Raises IE001 for an unknown pool, IE002 for a bad payload or '
    'where synchronous_commit is off, IE009 for another payload than it was confirmed with.';

CREATE FUNCTION intake.extend_hold(pool_id text, claim_id uuid, user_id text, OUT outcome text,
    OUT expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    WHERE h.claim_id = extend_hold.claim_id AND h.pool_no = config.pool_no AND h.ended IS NULL AND NOT h.extended
        AND h.expires_at > clock_timestamp() AND h.message ->> 'user_id' = extend_hold.user_id
    RETURNING h.expires_at INTO expires_at;
    IF FOUND THEN
        outcome := 'extended';
        RETURN;
    END IF;
    message := intake_private.after_hold(config, extend_hold.claim_id, extend_hold.user_id);
    outcome := CASE WHEN message IS NULL THEN 'unknown' WHEN message ->> 'now' = 'held' THEN 'replayed'
        WHEN message ->> 'now' = 'expired' OR message ->> 'now' = 'released' AND NOT message ? 'confirmed_at'
            THEN message ->> 'now' ELSE 'confirmed' END;
    SELECT h.expires_at INTO expires_at FROM intake.holds h
    WHERE outcome = 'replayed' AND h.claim_id = extend_hold.claim_id;
    PERFORM intake_private.wait_for_standby();
END $$;
COMMENT ON FUNCTION intake.extend_hold IS
    'Give a hold extendSeconds more, once. Safe to repeat. extended; replayed: it was extended before; confirmed: it no '
    'longer waits; expired, released: it is over; unknown: this user has no such claim; not_ready. Raises IE001 for an '
    'unknown pool, IE002 where the pool extends no holds, or where synchronous_commit is off.';

GRANT EXECUTE ON FUNCTION intake.confirm_claim, intake.extend_hold TO claimer;
