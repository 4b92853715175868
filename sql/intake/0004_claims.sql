-- The claim: one transaction that takes a slot and puts its intent on the LOGGED queue. Nothing is decoupled.
--
-- A ticket number (nextval) says where to try, the key of the hold decides. Every statement here relies on seeing what
-- was committed before it, hence READ COMMITTED only. The queue row is a static INSERT, a quarter of what pgmq.send()
-- costs; a test pins it to what pgmq.send() writes.

CREATE FUNCTION intake.claim_resource(pool_id text, user_id text, request_id text DEFAULT NULL,
    OUT outcome text, OUT claim_id uuid, OUT resource_id uuid, OUT slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- The wall clock, not now(): a transaction that was opened before the window closed must not claim after it.
    at      timestamptz := clock_timestamp();
    pool    intake.pools;
    known   boolean;          -- the user has a claim, or has made this request before
    earlier bigint;           -- the slot of the claim that this request made before
    nth     int;              -- the claim's ordinal among its user's, where there is a limit
    held    int;              -- claims the user holds
    outside int;              -- of those, made without a limit or under a higher one: ordinal not in 1..limit
    settled boolean := false;
BEGIN
    IF coalesce(length(claim_resource.user_id), 0) NOT BETWEEN 1 AND 200
            OR length(claim_resource.request_id) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'user_id and request_id are texts of 1 to 200 characters' USING ERRCODE = 'IE002',
            HINT = 'request_id may be NULL; better give one that the client keeps across its retries.';
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'claims run in READ COMMITTED' USING ERRCODE = 'IE002',
            HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED, or no explicit transaction at all.';
    END IF;

    -- Reading the hot row also takes the lock that seal() and settle() look for: it comes before any ticket is drawn.
    SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_resource.pool_id;
    IF NOT FOUND THEN
        PERFORM intake.config_of(claim_resource.pool_id);
        outcome := 'not_ready';
        RETURN;
    END IF;

    FOR attempt IN 1..20 LOOP
        -- 1. What the user has. First of all: a retry gets its first answer whatever has happened since, burns no
        -- ticket and writes nothing.
        known := CASE WHEN pool.claims_per_user IS NULL
            THEN EXISTS (SELECT FROM intake.holds h WHERE h.pool_no = pool.pool_no
                AND h.user_id = claim_resource.user_id AND h.request_id = claim_resource.request_id)
            ELSE EXISTS (SELECT FROM intake.holds h WHERE h.pool_no = pool.pool_no
                AND h.user_id = claim_resource.user_id)
            END OR EXISTS (SELECT FROM intake.voided_requests v WHERE v.pool_no = pool.pool_no
                AND v.user_id = claim_resource.user_id AND v.request_id = claim_resource.request_id);
        IF known THEN
            SELECT a.claim_id, a.slot_no INTO claim_id, earlier
            FROM (SELECT h.claim_id, h.slot_no FROM intake.holds h WHERE h.pool_no = pool.pool_no
                    AND h.user_id = claim_resource.user_id AND h.request_id = claim_resource.request_id
                UNION ALL SELECT v.claim_id, v.slot_no FROM intake.voided_requests v WHERE v.pool_no = pool.pool_no
                    AND v.user_id = claim_resource.user_id AND v.request_id = claim_resource.request_id) a;
            IF FOUND THEN
                outcome := 'replayed';
                EXIT;
            END IF;
        END IF;

        -- 2. Is the sale on, and may this user?
        outcome := CASE WHEN pool.sealed OR at >= pool.closes_at THEN 'closed' WHEN at < pool.opens_at THEN 'not_open'
            WHEN pool.paused THEN 'paused' END;
        EXIT WHEN outcome IS NOT NULL;
        nth := CASE WHEN pool.claims_per_user IS NOT NULL THEN 1 END;
        IF known AND pool.claims_per_user IS NOT NULL THEN
            SELECT count(*), count(*) FILTER (WHERE h.ord IS NULL OR h.ord > pool.claims_per_user) INTO held, outside
            FROM intake.holds h WHERE h.pool_no = pool.pool_no AND h.user_id = claim_resource.user_id;
            IF held >= pool.claims_per_user THEN
                outcome := 'limit_reached';
                EXIT;
            END IF;
            -- The smallest free ordinal: the user's claims that race for the last place all try the same key.
            SELECT min(g) INTO nth FROM generate_series(1, pool.claims_per_user - outside) g
            WHERE NOT EXISTS (SELECT FROM intake.holds h WHERE h.pool_no = pool.pool_no
                AND h.user_id = claim_resource.user_id AND h.ord = g);
            CONTINUE WHEN nth IS NULL; -- the two statements saw a different set of claims
        END IF;

        -- 3. A number: the next ticket, or, after the last ticket, one from the free list.
        IF slot_no IS NULL AND NOT pool.sold_out THEN
            slot_no := nextval(pool.ticket_seq);
            IF slot_no > pool.capacity THEN
                slot_no := NULL;
            END IF;
        END IF;
        IF slot_no IS NULL AND pool.sold_out THEN
            -- One snapshot for both: at that instant every slot of the pool was taken.
            IF EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = pool.pool_no AND p.sold_out
                AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)) THEN
                outcome := 'sold_out';
                EXIT;
            END IF;
        END IF;
        IF slot_no IS NULL THEN
            DELETE FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = (
                SELECT x.slot_no FROM intake.free_numbers x WHERE x.pool_no = pool.pool_no
                LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING f.slot_no INTO slot_no;
        END IF;
        IF slot_no IS NULL THEN
            -- Nothing to take, yet not known to be sold out: some numbers are in other claims' hands, or burnt.
            IF settled THEN
                outcome := 'busy';
                EXIT;
            END IF;
            settled := true;
            PERFORM intake.settle(pool.pool_no);
            SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_resource.pool_id;
            CONTINUE;
        END IF;

        -- 4. Take it.
        claim_id := uuidv7();
        INSERT INTO intake.holds (pool_no, slot_no, claim_id, user_id, request_id, ord, locked_at)
        VALUES (pool.pool_no, claim_resource.slot_no, claim_resource.claim_id, claim_resource.user_id,
            claim_resource.request_id, nth, at)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            resource_id := intake.resource_of(pool.pool_id, slot_no);
            -- The condition: this request's first claim may have been made and voided since step 1.
            INSERT INTO pgmq.q_intake_queue (vt, message, headers)
            SELECT clock_timestamp(), jsonb_build_object('claim_id', claim_resource.claim_id, 'pool_id', pool.pool_id,
                'user_id', claim_resource.user_id, 'request_id', claim_resource.request_id,
                'slot_no', claim_resource.slot_no, 'resource_id', claim_resource.resource_id, 'claimed_at', at,
                'state', 'queued', 'failures', 0), NULL
            WHERE NOT EXISTS (SELECT FROM intake.voided_requests v WHERE v.pool_no = pool.pool_no
                AND v.user_id = claim_resource.user_id AND v.request_id = claim_resource.request_id);
            IF FOUND THEN
                outcome := 'claimed';
                RETURN;
            END IF;
            DELETE FROM intake.holds h WHERE h.pool_no = pool.pool_no AND h.slot_no = claim_resource.slot_no;
        ELSIF EXISTS (SELECT FROM intake.holds h WHERE h.pool_no = pool.pool_no AND h.slot_no = claim_resource.slot_no) THEN
            slot_no := NULL; -- that number is held: never sell it twice, draw another
        END IF;
        -- Otherwise another claim of this user was faster; the number stays in hand for the next look.
    END LOOP;

    IF slot_no IS NOT NULL THEN
        INSERT INTO intake.free_numbers (pool_no, slot_no) VALUES (pool.pool_no, claim_resource.slot_no)
        ON CONFLICT DO NOTHING;
    END IF;
    outcome := coalesce(outcome, 'busy');
    IF outcome = 'replayed' THEN
        slot_no := earlier;
        resource_id := intake.resource_of(pool.pool_id, earlier);
    ELSE
        claim_id := NULL;
        resource_id := NULL;
        slot_no := NULL;
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_resource IS 'Claim the next slot. outcome: claimed, replayed, sold_out, limit_reached, not_open, closed, paused, busy or not_ready.';
GRANT EXECUTE ON FUNCTION intake.claim_resource TO claimer;

CREATE FUNCTION intake.claim_status(pool_id text, claim_id uuid,
    OUT state text, OUT slot_no bigint, OUT resource_id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM intake.config_of(claim_status.pool_id);
    -- Reads queue and archive from end to end: a question for support and for tests, not for every fan.
    SELECT CASE i.place WHEN 'queued' THEN i.message ->> 'state' ELSE i.place END, (i.message ->> 'slot_no')::bigint,
        (i.message ->> 'resource_id')::uuid
    INTO claim_status.state, claim_status.slot_no, claim_status.resource_id
    FROM intake.intents i
    WHERE i.message ->> 'pool_id' = claim_status.pool_id AND i.message ->> 'claim_id' = claim_status.claim_id::text;
    claim_status.state := coalesce(claim_status.state, 'unknown');
END $$;
COMMENT ON FUNCTION intake.claim_status IS 'queued, validated, committing, committed, voided, dead or unknown.';
GRANT EXECUTE ON FUNCTION intake.claim_status TO claimer, monitor;

CREATE FUNCTION intake.seal(pool_id text, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed int;
BEGIN
    IF coalesce(seal.reason, '') = '' THEN
        RAISE EXCEPTION 'seal needs a reason' USING ERRCODE = 'IE002', HINT = 'It is what people will read later.';
    END IF;
    PERFORM intake.config_of(seal.pool_id);
    UPDATE intake.engine_config c SET sealed_at = clock_timestamp(), seal_reason = seal.reason,
        generation = c.generation + 1
    WHERE c.pool_id = seal.pool_id AND c.sealed_at IS NULL;
    GET DIAGNOSTICS changed = ROW_COUNT;
    -- The barrier. Every claim holds ACCESS SHARE on the hot row's table from its first look until its end, so this
    -- waits for all that run, and those that come meanwhile wait for our commit and then read `sealed`. The claimer's
    -- time limits bound the wait.
    LOCK TABLE intake.pools IN ACCESS EXCLUSIVE MODE;
    UPDATE intake.pools p SET sealed = true WHERE p.pool_id = seal.pool_id AND NOT p.sealed;
    IF changed > 0 THEN
        INSERT INTO intake.audit (pool_id, action, actor, reason, detail)
        VALUES (seal.pool_id, 'seal', session_user, seal.reason, '{}');
    END IF;
END $$;
COMMENT ON FUNCTION intake.seal IS 'Close a pool for good. On return no claim is running and none will ever succeed.';
