-- What the claim functions of 0008_claims.sql have in common: the checks before a claim, and claim_slots(), which
-- serves every claim that is not plain.
--
-- No function here is for callers.

CREATE FUNCTION intake_private.intent(claim_id uuid, pool_id text, user_id text, request_id text, seats jsonb,
    payload jsonb, claimed_at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object('claim_id', claim_id, 'pool_id', pool_id, 'user_id', user_id, 'request_id', request_id,
    'seats', seats, 'payload', payload, 'claimed_at', claimed_at, 'state', 'queued', 'failures', 0);
COMMENT ON FUNCTION intake_private.intent IS
    'The message of a new claim. seats is a JSON array of seat(), in the order of part_no.';

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

CREATE FUNCTION intake_private.check_payload(subject text, payload jsonb, most_bytes int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    kind  text := jsonb_typeof(payload);
    bytes int := octet_length(payload::text);
BEGIN
    IF kind <> 'object' THEN
        RAISE EXCEPTION '%: payload is a JSON object, not %', subject, kind
            USING ERRCODE = 'IE002', HINT = 'Send an object, or NULL for none.';
    ELSIF bytes > most_bytes THEN
        RAISE EXCEPTION '%: payload has % bytes, and this pool takes at most %', subject, bytes, most_bytes
            USING ERRCODE = 'IE002',
            HINT = 'Send less, or raise spec.claims.maxPayloadBytes. The bytes are those of the text of the jsonb.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_payload IS
    'Raises IE002 for a payload that is no JSON object or too large. NULL is no payload; without a limit (NULL) only the '
    'type is checked. `subject` begins the message.';

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

CREATE FUNCTION intake_private.message_of(claimed intake.claimed_slots) RETURNS jsonb
LANGUAGE sql STABLE SET enable_seqscan = off -- by key, whatever the statistics say of growing tables
RETURN coalesce((SELECT q.message FROM pgmq.q_intake_queue q WHERE q.msg_id = claimed.msg_id),
    (SELECT a.message FROM pgmq.a_intake_queue a WHERE a.msg_id = claimed.msg_id),
    (SELECT h.message FROM intake.holds h WHERE h.claim_id = claimed.claim_id),
    (SELECT d.message FROM pgmq.q_intake_dlq d WHERE d.message ->> 'claim_id' = claimed.claim_id::text),
    (SELECT d.message FROM pgmq.a_intake_dlq d WHERE d.message ->> 'claim_id' = claimed.claim_id::text LIMIT 1));
COMMENT ON FUNCTION intake_private.message_of IS 'The message of the claim that has this slot, wherever it is.';

CREATE FUNCTION intake_private.hold_ends_at(claim_id uuid) RETURNS timestamptz
LANGUAGE sql STABLE SET enable_seqscan = off -- by key: a session keeps the plan that it made for an empty table
RETURN (SELECT h.expires_at FROM intake.holds h WHERE h.claim_id = hold_ends_at.claim_id AND h.ended IS NULL);
COMMENT ON FUNCTION intake_private.hold_ends_at IS 'When the hold of a claim ends; NULL if the claim is not held.';

CREATE FUNCTION intake_private.difference(message jsonb, quantity int, named bigint[], payload jsonb) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    -- Of a claim that it has voided the ledger keeps no slots, and of no claim the payload.
    WHEN message IS NULL OR message ? 'restored' AND message ->> 'outcome' <> 'committed' THEN NULL
    WHEN jsonb_array_length(message -> 'seats') <> quantity THEN 'quantity'
    -- In whatever order they are named.
    WHEN named IS NOT NULL
        AND ARRAY(SELECT (s ->> 'slot_no')::bigint FROM jsonb_array_elements(message -> 'seats') s ORDER BY 1)
            <> ARRAY(SELECT n FROM unnest(named) n ORDER BY 1) THEN 'seats'
    WHEN message ? 'restored' THEN NULL
    WHEN (named IS NOT NULL) <> (message ? 'named') THEN 'seats'
    -- confirm_claim() may have replaced the payload.
    WHEN coalesce(message -> 'first_payload', message -> 'payload') <> coalesce(payload, 'null') THEN 'payload' END;
COMMENT ON FUNCTION intake_private.difference IS
    'In what a repeated request differs from the one that made the claim with this message: quantity, seats or payload; '
    'NULL if it is the same.';

CREATE FUNCTION intake_private.refuse_repeat(differs text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this user has made a request with this request_id and another %', refuse_repeat.differs
        USING ERRCODE = 'IE009',
        HINT = 'Repeat a request with the same quantity, seats and payload; use a new request_id for another order.';
END $$;
COMMENT ON FUNCTION intake_private.refuse_repeat IS 'Raise IE009, with what differs: quantity, seats or payload.';

CREATE FUNCTION intake_private.seats_in(message jsonb)
RETURNS TABLE (n bigint, slot_no bigint, resource_id uuid, label text, attributes jsonb)
LANGUAGE sql STABLE ROWS 2 AS $$
    SELECT s.n, (s.seat ->> 'slot_no')::bigint, (s.seat ->> 'resource_id')::uuid, s.seat ->> 'label',
        nullif(s.seat -> 'attributes', 'null')
    FROM jsonb_array_elements(message -> 'seats') WITH ORDINALITY AS s (seat, n)
$$;
COMMENT ON FUNCTION intake_private.seats_in IS 'The seats of a message, numbered from 1; no row for NULL.';

CREATE FUNCTION intake_private.seats_of(pool intake.pools, slot_nos bigint[]) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_agg(intake_private.seat(u.slot_no,
        coalesce(intake_private.resource_of(pool.resource_prefix, u.slot_no), (u.slot).resource_id), (u.slot).label,
        (u.slot).attributes) ORDER BY u.n)
    -- A scalar subquery: claim_batch() allows no nested loop, and any other join would read all slots for each claim.
    FROM (SELECT w.slot_no, w.n, CASE WHEN pool.resource_prefix IS NULL THEN (SELECT x FROM intake.slots x
            WHERE x.pool_no = pool.pool_no AND x.slot_no = w.slot_no) END AS slot
        FROM unnest(seats_of.slot_nos) WITH ORDINALITY AS w (slot_no, n) OFFSET 0) u
$$;
COMMENT ON FUNCTION intake_private.seats_of IS 'The seats of these slots as a message has them, in this order.';

-- Longer than 60 lines: its four steps share their variables, and each call of another function costs claim time.
CREATE FUNCTION intake_private.claim_slots(pool_id text, user_id text, request_id text, quantity int, payload jsonb,
    at timestamptz, traceparent text, named bigint[] DEFAULT NULL, numbers bigint[] DEFAULT '{}',
    refuse boolean DEFAULT false)
RETURNS TABLE (outcome text, claim_id uuid, resource_id uuid, slot_no bigint, label text, attributes jsonb,
    expires_at timestamptz, differs text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    pool     intake.pools;
    last_key bigint;           -- the last unique key of the user, where there is a limit
    live     bigint;           -- slots of the user that are not voided
    took     bigint[];
    free     bigint;
    latched  boolean;
    recycled boolean := false;
    was_free bigint[] := '{}'; -- named slots that were on the free list
    message  jsonb;
    made     uuid;             -- the claim that is answered: a new one, or that of the repeated request
    msg_id   bigint;
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
        -- writes nothing. The slots are counted before the request is looked up: the lookup then sees everything
        -- that was counted, and a claim that commits after it has the next unique key.
        IF pool.claims_per_user IS NOT NULL THEN
            SELECT coalesce(max(cs.unique_key::bigint), 0), count(*) FILTER (WHERE cs.status <> 'V') INTO last_key, live
            FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.user_id = claim_slots.user_id;
        END IF;
        IF claim_slots.request_id IS NOT NULL AND last_key IS DISTINCT FROM 0 THEN
            SELECT cs.claim_id, intake_private.message_of(cs) INTO made, message
            FROM intake_private.claims_of_request(pool.pool_no, pool.claims_per_user IS NOT NULL, claim_slots.user_id,
                claim_slots.request_id) cs ORDER BY cs.part_no LIMIT 1;
            IF FOUND THEN
                differs := intake_private.difference(message, quantity, named, claim_slots.payload);
                IF refuse AND differs IS NOT NULL THEN
                    PERFORM intake_private.refuse_repeat(differs);
                END IF;
                verdict := CASE WHEN differs IS NULL THEN 'replayed' ELSE 'different' END;
                PERFORM intake_private.wait_for_standby();
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
            SELECT array_agg(u ORDER BY u) INTO took FROM unnest(named) u
            WHERE (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no
                AND cs.slot_no = u) IS NOT NULL;
            IF took IS NOT NULL THEN
                verdict := 'taken';
                EXIT;
            END IF;
            -- Lock their keys on the free list first, whether they are there or not: recycle_numbers(), and a release
            -- that gives such a number back, then wait for this transaction. In the order of the numbers, so that claims
            -- of the same seats wait for each other and do not deadlock.
            WITH locked AS (
                INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no, u FROM unnest(named) u ORDER BY u
                ON CONFLICT ON CONSTRAINT free_numbers_pkey DO UPDATE SET slot_no = excluded.slot_no
                RETURNING old.slot_no)
            SELECT was_free || coalesce(array_agg(l.slot_no) FILTER (WHERE l.slot_no IS NOT NULL), '{}') INTO was_free
            FROM locked l;
            DELETE FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = ANY (named);
            numbers := ARRAY(SELECT u FROM unnest(named) u ORDER BY u);
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

        -- 4. Claim them, all or none. Slots and unique keys are inserted in their order, whatever the order of the
        -- names: two claims of one user, or of some of the same slots, then wait for each other and do not deadlock.
        msg_id := nextval('pgmq.q_intake_queue_msg_id_seq');
        made := intake_private.new_claim_id((coalesce(named, numbers))[1]);
        WITH inserted AS (
            INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, part_no, parts,
                unique_key, status, locked_at)
            SELECT pool.pool_no, u.slot_no, msg_id, made, claim_slots.user_id, claim_slots.request_id,
                coalesce(array_position(named, u.slot_no), u.n), quantity,
                intake_private.unique_key_of(last_key + u.n, u.n::int, claim_slots.request_id),
                CASE WHEN pool.hold_seconds IS NULL THEN 'R' ELSE 'H' END, at
            FROM unnest(numbers[1:quantity]) WITH ORDINALITY AS u (slot_no, n) ORDER BY u.n
            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.slot_no)
        SELECT coalesce(array_agg(i.slot_no), '{}') INTO took FROM inserted i;
        IF cardinality(took) = quantity THEN
            IF named IS NOT NULL THEN
                UPDATE intake.pools p SET by_name = true WHERE p.pool_no = pool.pool_no AND NOT p.by_name;
            ELSIF pool.by_name THEN
                PERFORM intake_private.drop_from_free_list(pool.pool_no, took);
            END IF;
            message := intake_private.intent(made, pool.pool_id, claim_slots.user_id, claim_slots.request_id,
                intake_private.seats_of(pool, coalesce(named, numbers[1:quantity])), claim_slots.payload, at)
                || CASE WHEN named IS NULL THEN '{}' ELSE '{"named": true}'::jsonb END;
            IF pool.hold_seconds IS NULL THEN
                INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
                VALUES (msg_id, at, message, intake_private.headers_of(claim_slots.traceparent));
            ELSE
                INSERT INTO intake.holds (claim_id, pool_no, msg_id, expires_at, message, headers)
                VALUES (made, pool.pool_no, msg_id, at + make_interval(secs => pool.hold_seconds), message,
                    intake_private.headers_of(claim_slots.traceparent));
            END IF;
            numbers := numbers[quantity + 1:];
            verdict := CASE WHEN pool.hold_seconds IS NULL THEN 'claimed' ELSE 'held' END;
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

    IF cardinality(numbers) > 0 THEN
        INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no, u FROM unnest(numbers) u
        WHERE named IS NULL OR u = ANY (was_free)
        ON CONFLICT DO NOTHING;
    END IF;
    IF verdict IN ('claimed', 'held', 'replayed') THEN
        IF verdict = 'held' THEN
            expires_at := at + make_interval(secs => pool.hold_seconds);
        ELSIF pool.hold_seconds IS NOT NULL THEN
            expires_at := intake_private.hold_ends_at(made);
        END IF;
        RETURN QUERY SELECT verdict, made, s.resource_id, s.slot_no, s.label, s.attributes, claim_slots.expires_at, NULL
        FROM intake_private.seats_in(message) s ORDER BY s.n;
    ELSIF verdict = 'taken' THEN
        RETURN QUERY SELECT verdict, NULL::uuid, s.resource_id, s.slot_no, s.label, s.attributes, NULL::timestamptz, NULL
        FROM intake_private.seats_in(jsonb_build_object('seats', intake_private.seats_of(pool, took))) s ORDER BY s.n;
    ELSE
        outcome := coalesce(verdict, 'busy');
        RETURN NEXT;
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.claim_slots IS
    'Claim `quantity` slots, all or none: the named slots, or the next ones, beginning with the numbers that the caller '
    'has drawn. Returns a row for each slot, a row for each named slot that is taken, or one row with the outcome that '
    'says why not. A repeated request with other content raises IE009 with `refuse`; otherwise it has the outcome '
    'different, and in `differs` what it has changed.';
