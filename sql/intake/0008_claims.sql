-- Claiming: one transaction takes a slot and puts its message on the LOGGED queue. Nothing is decoupled.
--
-- A claimer may call six functions, and no other:
--
--  claim_resource   the next slot
--  claim_resources  several slots, all or none
--  claim_seat       a slot by its label or resource id
--  claim_batch      the next slot for each of many requests
--  claim_status     where a claim is, or the claims of a request (0009_status_and_release.sql)
--  release_claim    give a claim up (0009_status_and_release.sql)
--
-- A number from the sequence says which slot to try; the keys of claimed_slots decide. Every statement relies on seeing
-- what was committed before it, hence READ COMMITTED only. The message is written by a static INSERT, which costs a
-- quarter of pgmq.send(); a test pins it to what pgmq.send() writes.
--
-- Whether listed slots or users have claims is asked by a scalar subquery: a plan that was made while claimed_slots was
-- small, and stays with its session, then still goes by index when the table is large. NOT EXISTS would become a join
-- that reads all of it.
--
-- claim_resource() and claim_batch() serve the plain case themselves: the pool is open, the user has no claim, the
-- sequence has numbers. Everything else goes to claim_slots() in 0007_claim_steps.sql. Both are longer than 60 lines:
-- each call of another function would cost a plan lookup and an executor start for every claim.

CREATE FUNCTION intake.claim_resource(pool_id text, user_id text, request_id text DEFAULT NULL,
    traceparent text DEFAULT NULL, OUT outcome text, OUT claim_id uuid, OUT resource_id uuid, OUT slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- The wall clock, not now(): a transaction that began before the window closed must not claim after it.
    at              timestamptz := clock_timestamp();
    in_pool         int;
    resource_prefix text;
    capacity        bigint;
    number_seq      regclass;
    open            boolean;
    sold_out        boolean;
    by_name         boolean;
    first_key       text; -- unique key of the user's first claim; keys have no gaps, so each user with claims has it
    msg_id          bigint;
BEGIN
    IF NOT intake_private.can_claim(claim_resource.user_id, claim_resource.request_id) THEN
        PERFORM intake_private.refuse_claim('claim_resource');
    END IF;
    -- Several small statements into scalars: one statement for all of it costs the executor a fifth of a claim more.
    SELECT p.pool_no, p.resource_prefix, p.capacity, p.number_seq, p.sold_out, p.by_name,
        intake_private.closed_reason(p, at) IS NULL,
        intake_private.unique_key_of(CASE WHEN p.claims_per_user IS NOT NULL THEN 1 END, 1, claim_resource.request_id)
    INTO in_pool, resource_prefix, capacity, number_seq, sold_out, by_name, open, first_key
    FROM intake.pools p WHERE p.pool_id = claim_resource.pool_id;

    IF open AND sold_out THEN
        -- One snapshot: at that instant every slot was claimed, and this user had no claim that a retry could ask
        -- for.
        IF EXISTS (SELECT FROM intake.pools p WHERE p.pool_id = claim_resource.pool_id AND p.sold_out
                AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = in_pool)
                AND NOT EXISTS (SELECT FROM intake.claimed_slots cs WHERE cs.pool_no = in_pool
                    AND cs.user_id = claim_resource.user_id AND cs.unique_key = first_key)) THEN
            outcome := 'sold_out';
            RETURN;
        END IF;
    ELSIF open THEN
        PERFORM FROM intake.claimed_slots cs
        WHERE cs.pool_no = in_pool AND cs.user_id = claim_resource.user_id AND cs.unique_key = first_key;
        IF NOT FOUND THEN
            slot_no := nextval(number_seq);
            IF slot_no <= capacity THEN
                INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, part_no,
                    unique_key, status, locked_at)
                VALUES (in_pool, claim_resource.slot_no, nextval('pgmq.q_intake_queue_msg_id_seq'),
                    intake_private.new_claim_id(claim_resource.slot_no), claim_resource.user_id,
                    claim_resource.request_id, 1, first_key, 'R', at)
                ON CONFLICT DO NOTHING
                RETURNING claimed_slots.claim_id, claimed_slots.msg_id INTO claim_id, msg_id;
                IF FOUND THEN
                    IF by_name THEN
                        PERFORM intake_private.drop_from_free_list(in_pool, ARRAY[claim_resource.slot_no]);
                    END IF;
                    IF resource_prefix IS NULL THEN
                        resource_id := intake_private.resource_at(NULL, in_pool, slot_no);
                    ELSE
                        resource_id := intake_private.resource_of(resource_prefix, slot_no);
                    END IF;
                    INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
                    VALUES (msg_id, at, intake_private.intent(claim_resource.claim_id, claim_resource.pool_id,
                        claim_resource.user_id, claim_resource.request_id, 1, claim_resource.slot_no,
                        claim_resource.resource_id, at), intake_private.headers_of(claim_resource.traceparent));
                    outcome := 'claimed';
                    RETURN;
                END IF;
            ELSE
                slot_no := NULL;
            END IF;
        END IF;
    END IF;

    -- Everything else: a retry, a user with claims, a closed pool, a number that is claimed already, the last slots.
    SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no INTO outcome, claim_id, resource_id, slot_no
    FROM intake_private.claim_slots(claim_resource.pool_id, claim_resource.user_id, claim_resource.request_id, 1, at,
        claim_resource.traceparent, numbers => array_remove(ARRAY[claim_resource.slot_no], NULL)) c;
END $$;
COMMENT ON FUNCTION intake.claim_resource IS
    'Claim the next slot. outcome: claimed, replayed, sold_out, limit_reached, not_open, closed, paused, busy or '
    'not_ready; claim_id, resource_id and slot_no are NULL unless it is claimed or replayed. Raises IE001 for an '
    'unknown pool, IE002 for a bad user_id or request_id (1 to 200 characters), for another isolation level than READ '
    'COMMITTED, or where synchronous_commit is off.';

CREATE FUNCTION intake.claim_resources(pool_id text, user_id text, quantity int, request_id text DEFAULT NULL,
    traceparent text DEFAULT NULL)
RETURNS TABLE (outcome text, claim_id uuid, resource_id uuid, slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT intake_private.can_claim(claim_resources.user_id, claim_resources.request_id) THEN
        PERFORM intake_private.refuse_claim('claim_resources');
    END IF;
    IF coalesce(quantity, 0) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'quantity is 1 to 100, not %', coalesce(quantity::text, 'NULL') USING ERRCODE = 'IE002',
            HINT = 'Split larger groups into several requests.';
    END IF;
    RETURN QUERY SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no
    FROM intake_private.claim_slots(claim_resources.pool_id, claim_resources.user_id, claim_resources.request_id,
        quantity, clock_timestamp(), claim_resources.traceparent) c;
END $$;
COMMENT ON FUNCTION intake.claim_resources IS
    'Claim 1 to 100 slots, all or none. Returns a row for each, or one row with an outcome of claim_resource() or '
    'too_few. Raises IE002 for another quantity, and what claim_resource() raises.';

CREATE FUNCTION intake.claim_seat(pool_id text, user_id text, seat text, request_id text DEFAULT NULL,
    traceparent text DEFAULT NULL, OUT outcome text, OUT claim_id uuid, OUT resource_id uuid, OUT slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at    timestamptz := clock_timestamp();
    pool  intake.pools;
    named bigint;
BEGIN
    IF NOT intake_private.can_claim(claim_seat.user_id, claim_seat.request_id) THEN
        PERFORM intake_private.refuse_claim('claim_seat');
    END IF;
    SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_seat.pool_id;
    IF FOUND THEN
        -- In the form in which stock() stored it. No label is the id of another slot.
        SELECT s.slot_no INTO named FROM intake.slots s
        WHERE s.pool_no = pool.pool_no AND s.label = normalize(claim_seat.seat, NFC);
        IF named IS NULL AND intake_private.label_as_uuid(claim_seat.seat) IS NOT NULL THEN
            SELECT s.slot_no INTO named FROM intake.slots s
            WHERE s.pool_no = pool.pool_no AND s.resource_id = intake_private.label_as_uuid(claim_seat.seat);
        END IF;
        IF named IS NULL THEN
            RAISE EXCEPTION 'pool % has no seat %', claim_seat.pool_id, coalesce(quote_literal(claim_seat.seat), 'NULL')
                USING ERRCODE = 'IE005', HINT = 'A seat is named by its label or its resource id.';
        END IF;
    END IF;
    SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no INTO outcome, claim_id, resource_id, slot_no
    FROM intake_private.claim_slots(claim_seat.pool_id, claim_seat.user_id, claim_seat.request_id, 1, at,
        claim_seat.traceparent, named) c;
END $$;
COMMENT ON FUNCTION intake.claim_seat IS
    'Claim the slot with this label or resource id. outcome: as claim_resource(), or taken. Raises IE005 if the pool '
    'has no such seat, and what claim_resource() raises.';

CREATE FUNCTION intake.claim_batch(pool_id text, user_ids text[], request_ids text[] DEFAULT NULL,
    traceparent text DEFAULT NULL)
RETURNS TABLE (n int, outcome text, claim_id uuid, resource_id uuid, slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at        timestamptz := clock_timestamp();
    pool      intake.pools;
    bad       bigint;
    answer    text;     -- the outcome for all requests that cannot be the repeat of one that got a claim
    drawn     bigint[]; -- numbers drawn for requests of users without a claim
    took      int[];    -- positions of those requests; then of those that got a slot, parallel to the arrays below
    slots     bigint[];
    claims    uuid[];
    resources uuid[];
    request   record;
BEGIN
    IF coalesce(cardinality(user_ids), 0) NOT BETWEEN 1 AND 1000 OR cardinality(request_ids) <> cardinality(user_ids)
            OR array_ndims(user_ids) > 1 OR array_ndims(request_ids) > 1 THEN
        RAISE EXCEPTION 'a batch is 1 to 1000 user_ids, and request_ids parallel to them or none'
            USING ERRCODE = 'IE002',
            HINT = 'Split more requests into several batches.';
    END IF;
    SELECT min(a.n) INTO bad FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
    WHERE NOT intake_private.can_claim(a.user_id, a.request_id);
    IF bad IS NOT NULL THEN
        PERFORM intake_private.refuse_claim(format('request %s of the batch', bad));
    END IF;
    SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_batch.pool_id;

    IF pool.pool_no IS NULL THEN
        PERFORM intake_private.config_of(claim_batch.pool_id);
        RETURN QUERY SELECT g, 'not_ready', NULL::uuid, NULL::uuid, NULL::bigint
        FROM generate_series(1, cardinality(user_ids)) g;
        RETURN;
    END IF;
    IF intake_private.closed_reason(pool, at) IS NOT NULL OR pool.sold_out THEN
        -- Requests that are too early, too late, or come after the last slot. One snapshot, as in claim_resource():
        -- at that instant every slot was claimed, and their users had no first claim. A user who has one may be
        -- repeating a request, which is handled one by one below.
        SELECT min(p.answer), array_agg(a.n) INTO answer, took
        FROM (SELECT p.pool_no, p.claims_per_user, coalesce(intake_private.closed_reason(p, at), CASE
                WHEN p.sold_out AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
                THEN 'sold_out' END) AS answer
            FROM intake.pools p WHERE p.pool_id = claim_batch.pool_id OFFSET 0) p
        CROSS JOIN unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
        WHERE p.answer IS NOT NULL AND (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = p.pool_no
            AND cs.user_id = a.user_id
            AND cs.unique_key = intake_private.unique_key_of(CASE WHEN p.claims_per_user IS NOT NULL THEN 1 END, 1,
            a.request_id)) IS NULL;
        RETURN QUERY SELECT t, answer, NULL::uuid, NULL::uuid, NULL::bigint FROM unnest(took) t;
    ELSE
        -- Users without a claim, no two requests with the same unique key, while the sequence has numbers. Numbers are
        -- drawn in the order of the requests; rows are inserted in the order of their keys, so that two batches with
        -- the same users do not deadlock.
        WITH plain AS (
            SELECT DISTINCT ON (a.user_id, t.unique_key, CASE WHEN t.unique_key IS NULL THEN a.n END) a.*, t.unique_key
            FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
            CROSS JOIN LATERAL (SELECT intake_private.unique_key_of(CASE WHEN pool.claims_per_user IS NOT NULL
                THEN 1 END, 1,
                a.request_id) AS unique_key) t
            WHERE (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no
                AND cs.user_id = a.user_id
                AND cs.unique_key = t.unique_key) IS NULL
            ORDER BY a.user_id, t.unique_key, CASE WHEN t.unique_key IS NULL THEN a.n END, a.n),
        numbered AS MATERIALIZED (
            SELECT p.*, nextval(pool.number_seq) AS slot_no FROM (SELECT * FROM plain ORDER BY n) p),
        inserted AS (
            INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, part_no,
                unique_key, status, locked_at)
            SELECT pool.pool_no, t.slot_no, nextval('pgmq.q_intake_queue_msg_id_seq'),
                intake_private.new_claim_id(t.slot_no), t.user_id, t.request_id, 1, t.unique_key, 'R', at
            -- If the sequence does not have enough numbers for all, every request is handled one by one: inserting
            -- only some of them would break the order of keys.
            FROM numbered t WHERE (SELECT max(l.slot_no) FROM numbered l) <= pool.capacity
            ORDER BY t.user_id, t.unique_key, t.n
            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.*),
        claimed AS MATERIALIZED (
            -- resource_at() written out: a function with a subquery is not inlined.
            SELECT cs.*,
                coalesce(intake_private.resource_of(pool.resource_prefix, cs.slot_no),
                    (SELECT s.resource_id FROM intake.slots s
                WHERE s.pool_no = cs.pool_no AND s.slot_no = cs.slot_no)) AS resource_id
            FROM inserted cs),
        queued AS (
            INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
            SELECT c.msg_id, at, intake_private.intent(c.claim_id, pool.pool_id, c.user_id, c.request_id, 1, c.slot_no,
                c.resource_id, at), intake_private.headers_of(claim_batch.traceparent)
            FROM claimed c)
        SELECT d.positions, d.slots, c.slots, c.claims, c.resources INTO took, drawn, slots, claims, resources
        FROM (SELECT array_agg(t.n ORDER BY t.slot_no) AS positions, array_agg(t.slot_no ORDER BY t.slot_no) AS slots
            FROM numbered t WHERE t.slot_no <= pool.capacity) d
        CROSS JOIN (SELECT array_agg(c.slot_no ORDER BY c.slot_no) AS slots,
            array_agg(c.claim_id ORDER BY c.slot_no) AS claims, array_agg(c.resource_id ORDER BY c.slot_no) AS resources
            FROM claimed c) c;
        IF pool.by_name THEN
            PERFORM intake_private.drop_from_free_list(pool.pool_no, slots);
        END IF;
        IF slots IS DISTINCT FROM drawn THEN
            -- Another transaction used the same unique key, or a number is claimed already.
            SELECT array_agg(d.n ORDER BY d.slot_no) INTO took FROM unnest(took, drawn) AS d (n, slot_no)
            WHERE d.slot_no = ANY (slots);
            INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no,
                d.slot_no FROM unnest(drawn) d (slot_no)
            WHERE (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no
                AND cs.slot_no = d.slot_no) IS NULL
            ON CONFLICT DO NOTHING;
        END IF;
        RETURN QUERY SELECT c.n, 'claimed', c.claim_id, c.resource_id, c.slot_no
        FROM unnest(took, claims, resources, slots) AS c (n, claim_id, resource_id, slot_no);
    END IF;

    -- All other requests, one by one.
    IF cardinality(took) = cardinality(user_ids) THEN
        RETURN;
    END IF;
    FOR request IN SELECT a.* FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
            WHERE a.n <> ALL (coalesce(took, '{}')) ORDER BY a.user_id, a.request_id, a.n LOOP
        RETURN QUERY SELECT request.n::int, c.outcome, c.claim_id, c.resource_id, c.slot_no
        FROM intake_private.claim_slots(claim_batch.pool_id, request.user_id, request.request_id, 1, at,
            claim_batch.traceparent) c LIMIT 1;
    END LOOP;
END $$;
COMMENT ON FUNCTION intake.claim_batch IS
    'Claim the next slot for each of 1 to 1000 requests, in one transaction. Returns a row for each request with the '
    'outcome that claim_resource() would have given; n is its position in user_ids, from 1. The rows '
    'have no order. Raises IE002 for arrays that are not parallel or too long, 40P01 (deadlock) where batches claim '
    'for the same users again: nothing was claimed then, send it again; and what claim_resource() raises.';

GRANT EXECUTE ON FUNCTION intake.claim_resource, intake.claim_resources, intake.claim_seat,
    intake.claim_batch TO claimer;
