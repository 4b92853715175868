-- What the claim functions of 0008_claims.sql have in common: the checks before a claim, and claim_slots(), which
-- serves every claim that is not plain.
--
-- No function here is for callers.

CREATE FUNCTION intake_private.intent(claim_id uuid, pool_id text, user_id text, request_id text, part_no int,
    slot_no bigint, resource_id uuid, claimed_at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object('claim_id', claim_id, 'pool_id', pool_id, 'user_id', user_id, 'request_id', request_id,
    'part_no', part_no, 'slot_no', slot_no, 'resource_id', resource_id, 'claimed_at', claimed_at, 'state', 'queued',
    'failures', 0);
COMMENT ON FUNCTION intake_private.intent IS 'The message that a claim puts on the queue.';

CREATE FUNCTION intake_private.headers_of(traceparent text) RETURNS jsonb
LANGUAGE sql STABLE
-- A malformed traceparent is ignored, as W3C Trace Context demands: a trace must not make a claim fail.
RETURN CASE WHEN traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
    THEN jsonb_build_object('traceparent', traceparent) END;
COMMENT ON FUNCTION intake_private.headers_of IS
    'The headers of a new message: its traceparent, or NULL if it has none that is well formed.';

CREATE FUNCTION intake_private.commit_is_durable() RETURNS boolean
LANGUAGE sql STABLE
-- Without a synchronous standby, local is as durable as on. With one, remote_write relies on the memory of the
-- standby.
RETURN current_setting('synchronous_commit') NOT IN ('off', 'local')
    OR current_setting('synchronous_commit') = 'local' AND current_setting('synchronous_standby_names') = '';
COMMENT ON FUNCTION intake_private.commit_is_durable IS
    'Whether a commit of this transaction, with its present settings, survives a crash and, where there is a '
    'synchronous standby, the loss of this server.';

CREATE FUNCTION intake_private.require_durable_commit() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT intake_private.commit_is_durable() THEN
        RAISE EXCEPTION 'synchronous_commit is %: an answer could be lost in a crash',
            current_setting('synchronous_commit') USING ERRCODE = 'IE002',
            HINT = 'Leave synchronous_commit on, from the call until the end of its transaction.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.require_durable_commit IS 'Raises IE002 unless commit_is_durable().';

CREATE FUNCTION intake_private.wait_for_standby() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- What this transaction has read may not have reached the synchronous standby yet: the wait of the writing
    -- transaction was cancelled, or its connection broke. A transaction that writes nothing does not wait for the
    -- standby, so after a failover it would have reported a claim that does not exist. This message to the WAL makes
    -- its commit wait for everything before it.
    IF current_setting('synchronous_standby_names') <> '' THEN
        PERFORM intake_private.require_durable_commit();
        PERFORM pg_logical_emit_message(true, 'intake', 'wait for standby');
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.wait_for_standby IS
    'Call it before an answer that reports what other transactions wrote. Where there is a synchronous standby, the '
    'commit of this transaction then waits until the standby has all of it too. Raises IE002 if the commit would not '
    'wait.';

CREATE FUNCTION intake_private.can_claim(user_id text, request_id text) RETURNS boolean
LANGUAGE sql STABLE
RETURN (length(user_id) BETWEEN 1 AND 200 AND coalesce(length(request_id), 1) BETWEEN 1 AND 200
    AND current_setting('transaction_isolation') = 'read committed' AND intake_private.commit_is_durable()) IS TRUE;
COMMENT ON FUNCTION intake_private.can_claim IS
    'Whether a claim is possible with this user_id and request_id in this transaction.';

CREATE FUNCTION intake_private.refuse_claim(subject text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'claims run in READ COMMITTED' USING ERRCODE = 'IE002',
            HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED, or no explicit transaction at all.';
    END IF;
    PERFORM intake_private.require_durable_commit();
    RAISE EXCEPTION '%: user_id and request_id are texts of 1 to 200 characters', refuse_claim.subject
        USING ERRCODE = 'IE002',
        HINT = 'request_id may be NULL; better give one that the client keeps across its retries.';
END $$;
COMMENT ON FUNCTION intake_private.refuse_claim IS
    'Raise the reason why can_claim() is false: always IE002. `subject` begins the message: the function, or which '
    'request of a batch.';

CREATE FUNCTION intake_private.closed_reason(pool intake.pools, at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN pool.sealed OR at >= pool.closes_at THEN 'closed' WHEN at < pool.opens_at THEN 'not_open'
    WHEN pool.paused THEN 'paused' END;
COMMENT ON FUNCTION intake_private.closed_reason IS
    'Why a pool takes no claims at that time: closed, not_open or paused; NULL if it does.';

CREATE FUNCTION intake_private.claims_of_request(pool_no int, limited boolean, user_id text, request_id text)
RETURNS SETOF intake.claimed_slots
LANGUAGE sql STABLE AS $$
    SELECT cs.* FROM intake.claimed_slots cs
    WHERE cs.pool_no = claims_of_request.pool_no AND cs.user_id = claims_of_request.user_id
        AND cs.request_id = claims_of_request.request_id
        -- All unique keys where they count the claims of the user, otherwise those of the request. In the C collation
        -- '0' follows '/', and ':' follows '9'.
        AND cs.unique_key >= CASE WHEN limited THEN '' ELSE claims_of_request.request_id || '/' END
        AND cs.unique_key < CASE WHEN limited THEN ':' ELSE claims_of_request.request_id || '0' END
$$;
COMMENT ON FUNCTION intake_private.claims_of_request IS
    'The claims that a request has made, voided ones included. limited: whether the pool has claimsPerUser.';

-- Longer than 60 lines: its four steps share their variables, and each call of another function costs claim time.
CREATE FUNCTION intake_private.claim_slots(pool_id text, user_id text, request_id text, quantity int, at timestamptz,
    traceparent text, named bigint DEFAULT NULL, numbers bigint[] DEFAULT '{}')
RETURNS TABLE (outcome text, claim_id uuid, resource_id uuid, slot_no bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    pool     intake.pools;
    made     bigint;           -- claims of the user, where there is a limit
    live     bigint;           -- those of them that are not voided
    took     bigint[];
    free     bigint;
    latched  boolean;
    recycled boolean := false;
    was_free boolean := false; -- the named slot was on the free list
    verdict  text;
BEGIN
    FOR attempt IN 1..20 LOOP
        -- Reading the hot row also takes the lock on intake.pools that seal() and recycle_numbers() look for, so it
        -- comes before any number is drawn.
        SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_slots.pool_id;
        IF NOT FOUND THEN
            PERFORM intake_private.config_of(claim_slots.pool_id);
            verdict := 'not_ready';
            EXIT;
        END IF;

        -- 1. Claims that the user has. A retry gets its first answer whatever has happened since, burns no number and
        -- writes nothing. The claims are counted before the request is looked up: the lookup then sees everything
        -- that was counted, and a claim that commits after it has the next unique key.
        IF pool.claims_per_user IS NOT NULL THEN
            SELECT count(*), count(*) FILTER (WHERE cs.status <> 'V') INTO made, live
            FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.user_id = claim_slots.user_id;
        END IF;
        IF claim_slots.request_id IS NOT NULL THEN
            RETURN QUERY
            SELECT 'replayed', cs.claim_id, intake_private.resource_at(pool.resource_prefix, pool.pool_no, n.slot_no),
                n.slot_no
            FROM intake_private.claims_of_request(pool.pool_no, pool.claims_per_user IS NOT NULL, claim_slots.user_id,
            claim_slots.request_id) cs CROSS JOIN LATERAL (SELECT coalesce(cs.was_slot_no, cs.slot_no) AS slot_no) n
            ORDER BY cs.part_no;
            IF FOUND THEN
                PERFORM intake_private.wait_for_standby();
                verdict := 'replayed';
                EXIT;
            END IF;
        END IF;

        -- 2. Is the pool open, and is the user below the limit?
        verdict := intake_private.closed_reason(pool, at);
        EXIT WHEN verdict IS NOT NULL;
        IF live + quantity > pool.claims_per_user THEN
            verdict := 'limit_reached';
            EXIT;
        END IF;

        -- 3. Numbers to try.
        IF named IS NOT NULL THEN
            IF EXISTS (SELECT FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.slot_no = named) THEN
                verdict := 'taken';
                EXIT;
            END IF;
            -- Insert its key into the free list first, whether it is there or not: a claim that takes the number from
            -- there, and recycle_numbers(), then wait for this transaction.
            INSERT INTO intake.free_numbers (pool_no, slot_no) VALUES (pool.pool_no, named) ON CONFLICT DO NOTHING;
            was_free := was_free OR NOT FOUND;
            DELETE FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = named;
            numbers := ARRAY[named];
        ELSE
            numbers := intake_private.take_numbers(pool, numbers, quantity);
        END IF;
        IF cardinality(numbers) < quantity THEN
            -- One snapshot: at that instant every slot was claimed, except the numbers drawn here and those on the
            -- free list.
            SELECT p.sold_out, (SELECT count(*) FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
            INTO latched, free FROM intake.pools p WHERE p.pool_no = pool.pool_no;
            IF latched AND free + cardinality(numbers) < quantity THEN
                verdict := CASE free + cardinality(numbers) WHEN 0 THEN 'sold_out' ELSE 'too_few' END;
                EXIT;
            END IF;
            -- Not known to be sold out: some numbers belong to other running claims, or are burnt.
            IF recycled THEN
                verdict := 'busy';
                EXIT;
            END IF;
            recycled := true;
            -- Otherwise recycle_numbers() would take the numbers drawn here for burnt ones.
            INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no, u FROM unnest(numbers) u
            ON CONFLICT DO NOTHING;
            numbers := '{}';
            PERFORM intake_private.recycle_numbers(pool.pool_no);
            CONTINUE;
        END IF;

        -- 4. Claim them, all or none.
        WITH inserted AS (
            INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, part_no,
                unique_key, status, locked_at)
            SELECT pool.pool_no, u.slot_no, nextval('pgmq.q_intake_queue_msg_id_seq'),
                intake_private.new_claim_id(u.slot_no), claim_slots.user_id, claim_slots.request_id, u.n,
                intake_private.unique_key_of(made + u.n, u.n::int, claim_slots.request_id), 'R', at
            FROM unnest(numbers) WITH ORDINALITY AS u (slot_no, n) WHERE u.n <= quantity
            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.slot_no)
        SELECT coalesce(array_agg(i.slot_no), '{}') INTO took FROM inserted i;
        IF cardinality(took) = quantity THEN
            IF named IS NOT NULL THEN
                UPDATE intake.pools p SET by_name = true WHERE p.pool_no = pool.pool_no AND NOT p.by_name;
            ELSIF pool.by_name THEN
                PERFORM intake_private.drop_from_free_list(pool.pool_no, took);
            END IF;
            RETURN QUERY
            WITH mine AS (
                SELECT cs.*, intake_private.resource_at(pool.resource_prefix, cs.pool_no, cs.slot_no) AS resource_id
                FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.slot_no = ANY (took)),
            queued AS (
                INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
                SELECT m.msg_id, at, intake_private.intent(m.claim_id, pool.pool_id, m.user_id, m.request_id, m.part_no,
                    m.slot_no, m.resource_id, at), intake_private.headers_of(claim_slots.traceparent)
                FROM mine m)
            SELECT 'claimed', m.claim_id, m.resource_id, m.slot_no FROM mine m ORDER BY m.part_no;
            numbers := numbers[quantity + 1:];
            verdict := 'claimed';
            EXIT;
        END IF;
        -- Another claim of this user was faster, or a number is claimed after all. Keep the numbers that are not
        -- claimed for the next attempt.
        DELETE FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.slot_no = ANY (took);
        SELECT coalesce(array_agg(u.slot_no ORDER BY u.n), '{}') INTO numbers
        FROM unnest(numbers) WITH ORDINALITY AS u (slot_no, n)
        WHERE (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no
            AND cs.slot_no = u.slot_no) IS NULL;
    END LOOP;

    IF named IS NULL OR was_free THEN
        INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no, u FROM unnest(numbers) u
        ON CONFLICT DO NOTHING;
    END IF;
    IF verdict IS NULL OR verdict NOT IN ('claimed', 'replayed') THEN
        RETURN QUERY SELECT coalesce(verdict, 'busy'), NULL::uuid, NULL::uuid, NULL::bigint;
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.claim_slots IS
    'Claim `quantity` slots, all or none: the named slot, or the next ones, beginning with the numbers that the caller '
    'has drawn. Returns a row for each slot, or one row with the outcome that says why not.';
