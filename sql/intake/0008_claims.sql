-- Claiming: one transaction takes the slots and puts the message of the claim on the LOGGED queue, or into the LOGGED
-- holds. Nothing is decoupled.
--
-- A claimer may call eight functions, and no other:
--
--  claim_resource   the next slot
--  claim_resources  several slots, all or none
--  claim_seats      slots by label or resource id, all or none
--  claim_batch      the next slots for each of many requests
--  confirm_claim    send a hold on its way to the ledger (0020_holds.sql)
--  extend_hold      more time to confirm it (0020_holds.sql)
--  claim_status     where a claim is (0009_status_and_release.sql)
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
-- claim_resource(), claim_resources() and claim_batch() serve the plain case themselves: the pool is open, the user has
-- no claim, the sequence has numbers. Everything else goes to claim_slots() in 0007_claim_steps.sql. They are longer
-- than 60 lines: each call of another function would cost a plan lookup and an executor start for every claim.

CREATE FUNCTION intake_private.check_claim(subject text, user_id text, request_id text, quantity int, payload jsonb,
    max_payload_bytes int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT intake_private.can_claim(check_claim.user_id, check_claim.request_id) THEN
        PERFORM intake_private.refuse_claim(subject);
    ELSIF coalesce(quantity, 0) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'quantity is 1 to 100, not %', coalesce(quantity::text, 'NULL') USING ERRCODE = 'IE002',
            HINT = 'Split larger groups into several requests.';
    ELSIF payload IS NOT NULL THEN
        PERFORM intake_private.check_payload(subject, check_claim.payload, check_claim.max_payload_bytes);
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_claim IS
    'Raises IE002 for a claim that no pool could take. `subject`, the name of the function, begins the message.';

CREATE FUNCTION intake.claim_resource(pool_id text, user_id text, request_id text DEFAULT NULL,
    payload jsonb DEFAULT NULL, traceparent text DEFAULT NULL, OUT outcome text, OUT claim_id uuid,
    OUT resource_id uuid, OUT slot_no bigint, OUT label text, OUT attributes jsonb, OUT expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- The wall clock, not now(): a transaction that began before the window closed must not claim after it.
    at                timestamptz := clock_timestamp();
    in_pool           int;
    resource_prefix   text;
    capacity          bigint;
    number_seq        regclass;
    max_payload_bytes int;
    hold_seconds      int;
    open              boolean;
    sold_out          boolean;
    by_name           boolean;
    first_key         text; -- unique key of the user's first claim, which each user with claims has
    msg_id            bigint;
BEGIN
    IF NOT intake_private.can_claim(claim_resource.user_id, claim_resource.request_id) THEN
        PERFORM intake_private.refuse_claim('claim_resource');
    END IF;
    -- Several small statements into scalars: one statement for all of it costs the executor a fifth of a claim more.
    SELECT p.pool_no, p.resource_prefix, p.capacity, p.number_seq, p.max_payload_bytes, p.hold_seconds, p.sold_out,
        p.by_name, intake_private.closed_reason(p, at) IS NULL,
        intake_private.unique_key_of(CASE WHEN p.claims_per_user IS NOT NULL THEN 1 END, 1, claim_resource.request_id)
    INTO in_pool, resource_prefix, capacity, number_seq, max_payload_bytes, hold_seconds, sold_out, by_name, open,
        first_key
    FROM intake.pools p WHERE p.pool_id = claim_resource.pool_id;
    IF jsonb_typeof(claim_resource.payload) <> 'object'
            OR octet_length(claim_resource.payload::text) > max_payload_bytes THEN
        PERFORM intake_private.check_payload('claim_resource', claim_resource.payload, max_payload_bytes);
    END IF;

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
                    parts, unique_key, status, locked_at)
                VALUES (in_pool, claim_resource.slot_no, nextval('pgmq.q_intake_queue_msg_id_seq'),
                    intake_private.new_claim_id(claim_resource.slot_no), claim_resource.user_id,
                    claim_resource.request_id, 1, 1, first_key, CASE WHEN hold_seconds IS NULL THEN 'R' ELSE 'H' END, at)
                ON CONFLICT DO NOTHING
                RETURNING claimed_slots.claim_id, claimed_slots.msg_id INTO claim_id, msg_id;
                IF FOUND THEN
                    IF by_name THEN
                        PERFORM intake_private.drop_from_free_list(in_pool, ARRAY[claim_resource.slot_no]);
                    END IF;
                    IF resource_prefix IS NULL THEN
                        SELECT s.resource_id, s.label, s.attributes INTO resource_id, label, attributes
                        FROM intake.slots s WHERE s.pool_no = in_pool AND s.slot_no = claim_resource.slot_no;
                    ELSE
                        resource_id := intake_private.resource_of(resource_prefix, slot_no);
                    END IF;
                    IF hold_seconds IS NULL THEN
                        outcome := 'claimed';
                        INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
                        VALUES (msg_id, at, intake_private.intent(claim_resource.claim_id, claim_resource.pool_id,
                            claim_resource.user_id, claim_resource.request_id, jsonb_build_array(intake_private.seat(
                                claim_resource.slot_no, claim_resource.resource_id, claim_resource.label,
                                claim_resource.attributes)), claim_resource.payload, at),
                            intake_private.headers_of(claim_resource.traceparent));
                    ELSE
                        outcome := 'held';
                        expires_at := at + make_interval(secs => hold_seconds);
                        INSERT INTO intake.holds (claim_id, pool_no, msg_id, expires_at, message, headers)
                        VALUES (claim_resource.claim_id, in_pool, msg_id, claim_resource.expires_at,
                            intake_private.intent(claim_resource.claim_id, claim_resource.pool_id,
                            claim_resource.user_id, claim_resource.request_id, jsonb_build_array(intake_private.seat(
                                claim_resource.slot_no, claim_resource.resource_id, claim_resource.label,
                                claim_resource.attributes)), claim_resource.payload, at),
                            intake_private.headers_of(claim_resource.traceparent));
                    END IF;
                    RETURN;
                END IF;
            ELSE
                slot_no := NULL;
            END IF;
        END IF;
    END IF;

    -- Everything else: a retry, a user with claims, a closed pool, a number that is claimed already, the last slots.
    SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no, c.label, c.attributes, c.expires_at
    INTO outcome, claim_id, resource_id, slot_no, label, attributes, expires_at
    FROM intake_private.claim_slots(claim_resource.pool_id, claim_resource.user_id, claim_resource.request_id, 1,
        claim_resource.payload, at, claim_resource.traceparent,
        numbers => array_remove(ARRAY[claim_resource.slot_no], NULL), refuse => true) c;
END $$;
COMMENT ON FUNCTION intake.claim_resource IS
    'Claim the next slot. outcome: claimed, held, replayed, sold_out, limit_reached, not_open, closed, paused, busy or '
    'not_ready; the other columns are NULL unless it is claimed, held or replayed. expires_at is when a hold ends. '
    'Raises IE001 for an unknown pool, IE002 for a bad user_id or request_id (1 to 200 characters) or payload, for '
    'another isolation level than READ COMMITTED, or where synchronous_commit is off, IE009 for a request_id that was '
    'used for something else.';

CREATE FUNCTION intake.claim_resources(pool_id text, user_id text, quantity int, request_id text DEFAULT NULL,
    payload jsonb DEFAULT NULL, traceparent text DEFAULT NULL)
RETURNS TABLE (outcome text, claim_id uuid, resource_id uuid, slot_no bigint, label text, attributes jsonb,
    expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    at        timestamptz := clock_timestamp();
    pool      intake.pools;
    first_key text;
    numbers   bigint[] := '{}';
    made      uuid;
    msg_id    bigint;
    message   jsonb;
    took      int;
BEGIN
    SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_resources.pool_id;
    PERFORM intake_private.check_claim('claim_resources', claim_resources.user_id, claim_resources.request_id,
        quantity, claim_resources.payload, pool.max_payload_bytes);
    IF NOT pool.sold_out AND quantity <= coalesce(pool.claims_per_user, 100)
            AND intake_private.closed_reason(pool, at) IS NULL THEN
        first_key := intake_private.unique_key_of(CASE WHEN pool.claims_per_user IS NOT NULL THEN 1 END, 1,
            claim_resources.request_id);
        PERFORM FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.user_id = claim_resources.user_id
            AND cs.unique_key = first_key;
        IF NOT FOUND THEN
            numbers := ARRAY(SELECT nextval(pool.number_seq) FROM generate_series(1, quantity));
            IF numbers[quantity] > pool.capacity THEN
                numbers := ARRAY(SELECT u FROM unnest(numbers) u WHERE u <= pool.capacity);
            ELSE
                made := intake_private.new_claim_id(numbers[1]);
                msg_id := nextval('pgmq.q_intake_queue_msg_id_seq');
                INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, part_no,
                    parts, unique_key, status, locked_at)
                SELECT pool.pool_no, numbers[g], msg_id, made, claim_resources.user_id, claim_resources.request_id, g,
                    quantity, intake_private.unique_key_of(CASE WHEN pool.claims_per_user IS NOT NULL THEN g END, g,
                    claim_resources.request_id), CASE WHEN pool.hold_seconds IS NULL THEN 'R' ELSE 'H' END, at
                FROM generate_series(1, quantity) g
                ON CONFLICT DO NOTHING;
                GET DIAGNOSTICS took = ROW_COUNT;
                IF took = quantity THEN
                    IF pool.by_name THEN
                        PERFORM intake_private.drop_from_free_list(pool.pool_no, numbers);
                    END IF;
                    message := intake_private.intent(made, pool.pool_id, claim_resources.user_id,
                        claim_resources.request_id, CASE WHEN pool.resource_prefix IS NULL
                            THEN intake_private.seats_of(pool, numbers)
                            ELSE (SELECT jsonb_agg(intake_private.seat(u, intake_private.resource_of(
                                pool.resource_prefix, u), NULL, NULL)) FROM unnest(numbers) u) END,
                        claim_resources.payload, at);
                    IF pool.hold_seconds IS NULL THEN
                        outcome := 'claimed';
                        INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
                        VALUES (msg_id, at, message, intake_private.headers_of(claim_resources.traceparent));
                    ELSE
                        outcome := 'held';
                        expires_at := at + make_interval(secs => pool.hold_seconds);
                        INSERT INTO intake.holds (claim_id, pool_no, msg_id, expires_at, message, headers)
                        VALUES (made, pool.pool_no, msg_id, claim_resources.expires_at, message,
                            intake_private.headers_of(claim_resources.traceparent));
                    END IF;
                    IF pool.resource_prefix IS NULL THEN
                        RETURN QUERY SELECT claim_resources.outcome, made, s.resource_id, s.slot_no, s.label,
                            s.attributes, claim_resources.expires_at FROM intake_private.seats_in(message) s;
                    ELSE
                        RETURN QUERY SELECT claim_resources.outcome, made, intake_private.resource_of(
                            pool.resource_prefix, u), u, NULL, NULL::jsonb, claim_resources.expires_at
                        FROM unnest(numbers) u;
                    END IF;
                    RETURN;
                END IF;
                -- Another claim of this user was faster, or a number is claimed already. claim_slots() goes on with
                -- the others.
                DELETE FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.slot_no = ANY (numbers)
                    AND cs.claim_id = made;
                numbers := ARRAY(SELECT u FROM unnest(numbers) u WHERE (SELECT cs.claim_id
                    FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no AND cs.slot_no = u) IS NULL);
            END IF;
        END IF;
    END IF;

    RETURN QUERY SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no, c.label, c.attributes, c.expires_at
    FROM intake_private.claim_slots(claim_resources.pool_id, claim_resources.user_id, claim_resources.request_id,
        quantity, claim_resources.payload, at, claim_resources.traceparent, numbers => numbers, refuse => true) c;
END $$;
COMMENT ON FUNCTION intake.claim_resources IS
    'Claim 1 to 100 slots as one claim, all or none. Returns a row for each, or one row with an outcome of '
    'claim_resource() or too_few. Raises IE002 for another quantity, and what claim_resource() raises.';

CREATE FUNCTION intake.claim_seats(pool_id text, user_id text, seats text[], request_id text DEFAULT NULL,
    payload jsonb DEFAULT NULL, traceparent text DEFAULT NULL)
RETURNS TABLE (outcome text, claim_id uuid, resource_id uuid, slot_no bigint, label text, attributes jsonb,
    expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    named bigint[];
BEGIN
    IF coalesce(cardinality(claim_seats.seats), 0) NOT BETWEEN 1 AND 100 OR array_ndims(claim_seats.seats) > 1 THEN
        RAISE EXCEPTION 'claim_seats takes 1 to 100 seats' USING ERRCODE = 'IE002',
            HINT = 'An array of labels or resource ids; split larger groups into several requests.';
    END IF;
    PERFORM intake_private.check_claim('claim_seats', claim_seats.user_id, claim_seats.request_id,
        cardinality(claim_seats.seats), claim_seats.payload,
        (SELECT p.max_payload_bytes FROM intake.pools p WHERE p.pool_id = claim_seats.pool_id));
    named := intake_private.slots_named(claim_seats.pool_id, claim_seats.seats);
    IF named IS NULL THEN
        PERFORM intake_private.config_of(claim_seats.pool_id);
        -- And not from claim_slots(): the pool may be ready by now, and would give the next slots instead.
        outcome := 'not_ready';
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no, c.label, c.attributes, c.expires_at
    FROM intake_private.claim_slots(claim_seats.pool_id, claim_seats.user_id, claim_seats.request_id,
        cardinality(claim_seats.seats), claim_seats.payload, clock_timestamp(), claim_seats.traceparent, named,
        refuse => true) c;
END $$;
COMMENT ON FUNCTION intake.claim_seats IS
    'Claim 1 to 100 slots by label or resource id as one claim, all or none. Returns a row for each; or a row with the '
    'outcome taken for each that is claimed; or one row with another outcome of claim_resource(). Raises IE002 for no '
    'seats, too many, or one twice, IE005 if the pool has no such seat, 40P01 (deadlock) beside batches: nothing was '
    'claimed then, send it again; and what claim_resource() raises.';

CREATE FUNCTION intake_private.slots_named(pool_id text, seats text[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    in_pool int := (SELECT p.pool_no FROM intake.pools p WHERE p.pool_id = slots_named.pool_id);
    named   bigint[] := '{}';
    found   bigint;
    seat    text;
BEGIN
    IF in_pool IS NULL THEN
        RETURN NULL; -- not ready
    END IF;
    FOREACH seat IN ARRAY slots_named.seats LOOP
        -- In the form in which stock() stored it. No label is the id of another slot.
        SELECT s.slot_no INTO found FROM intake.slots s WHERE s.pool_no = in_pool AND s.label = normalize(seat, NFC);
        IF found IS NULL AND intake_private.label_as_uuid(seat) IS NOT NULL THEN
            SELECT s.slot_no INTO found FROM intake.slots s
            WHERE s.pool_no = in_pool AND s.resource_id = intake_private.label_as_uuid(seat);
        END IF;
        IF found IS NULL THEN
            RAISE EXCEPTION 'pool % has no seat %', slots_named.pool_id, coalesce(quote_literal(seat), 'NULL')
                USING ERRCODE = 'IE005', HINT = 'A seat is named by its label or its resource id.';
        ELSIF found = ANY (named) THEN
            RAISE EXCEPTION 'seat % is named twice', quote_literal(seat) USING ERRCODE = 'IE002',
                HINT = 'Name each seat once, by its label or its resource id.';
        END IF;
        named := named || found;
    END LOOP;
    RETURN named;
END $$;
COMMENT ON FUNCTION intake_private.slots_named IS
    'The slot numbers of seats that are named by label or resource id, in this order; NULL while the pool is not ready. '
    'Raises IE005 for a seat that the pool does not have, IE002 for one that is named twice.';

CREATE TYPE intake_private.batch_claim AS (n int, claimed boolean, claim_id uuid, slot_nos bigint[], seats jsonb);
COMMENT ON TYPE intake_private.batch_claim IS
    'The numbers that claim_batch() has drawn for the request n, and whether that claim got all of them.';

CREATE FUNCTION intake_private.check_batch(user_ids text[], request_ids text[], quantities int[], payloads jsonb[],
    traceparents text[], max_payload_bytes int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    requests CONSTANT int := coalesce(cardinality(user_ids), 0);
    bad      record;
BEGIN
    IF requests NOT BETWEEN 1 AND 1000 OR cardinality(request_ids) <> requests OR cardinality(quantities) <> requests
            OR cardinality(payloads) <> requests OR cardinality(traceparents) <> requests
            OR greatest(array_ndims(user_ids), array_ndims(request_ids), array_ndims(quantities), array_ndims(payloads),
                array_ndims(traceparents)) > 1 OR array_lower(payloads, 1) <> 1 OR array_lower(traceparents, 1) <> 1 THEN
        RAISE EXCEPTION 'a batch is 1 to 1000 user_ids, and other arrays parallel to them or none'
            USING ERRCODE = 'IE002',
            HINT = 'Split more requests into several batches.';
    END IF;
    SELECT a.* INTO bad FROM unnest(user_ids, request_ids, quantities) WITH ORDINALITY
        AS a (user_id, request_id, quantity, n)
    WHERE NOT intake_private.can_claim(a.user_id, a.request_id) OR a.quantity NOT BETWEEN 1 AND 100 ORDER BY a.n LIMIT 1;
    IF bad.quantity NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'request % of the batch: quantity is 1 to 100, not %', bad.n, bad.quantity
            USING ERRCODE = 'IE002', HINT = 'Split larger groups into several requests.';
    ELSIF bad.n IS NOT NULL THEN
        PERFORM intake_private.refuse_claim(format('request %s of the batch', bad.n));
    ELSIF (SELECT sum(coalesce(q, 1)) FROM unnest(quantities) q) > 4000 THEN
        RAISE EXCEPTION 'a batch is for at most 4000 slots' USING ERRCODE = 'IE002',
            HINT = 'Split it into several batches. Its answer has a row for each slot, and is kept in memory.';
    END IF;
    IF payloads IS NOT NULL THEN
        SELECT min(g) AS n INTO bad FROM generate_series(1, requests) g
        WHERE jsonb_typeof(payloads[g]) <> 'object' OR octet_length(payloads[g]::text) > max_payload_bytes;
        IF bad.n IS NOT NULL THEN
            PERFORM intake_private.check_payload(format('request %s of the batch', bad.n), payloads[bad.n],
                max_payload_bytes);
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_batch IS
    'Raises IE002, with the number of the request, for what claim_batch() cannot take.';

CREATE FUNCTION intake.claim_batch(pool_id text, user_ids text[], request_ids text[] DEFAULT NULL,
    quantities int[] DEFAULT NULL, payloads jsonb[] DEFAULT NULL, traceparents text[] DEFAULT NULL)
RETURNS TABLE (n int, outcome text, claim_id uuid, resource_id uuid, slot_no bigint, label text, attributes jsonb,
    expires_at timestamptz, differs text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
-- No nested loop over the requests, whose number the planner cannot know: that is a million comparisons for a thousand.
SET enable_nestloop = off AS $$
#variable_conflict use_column
DECLARE
    at      timestamptz := clock_timestamp();
    pool    intake.pools;
    answer  text;                       -- the outcome for all requests that cannot repeat one that got a claim
    made    intake_private.batch_claim[]; -- what was drawn for requests of users without a claim
    took    int[];                      -- positions of the requests that have their answer
    ends    timestamptz;
    request record;
BEGIN
    SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_batch.pool_id;
    PERFORM intake_private.check_batch(user_ids, request_ids, quantities, payloads, traceparents,
        pool.max_payload_bytes);

    IF pool.pool_no IS NULL THEN
        PERFORM intake_private.config_of(claim_batch.pool_id);
        RETURN QUERY SELECT g, 'not_ready', NULL::uuid, NULL::uuid, NULL::bigint, NULL, NULL::jsonb, NULL::timestamptz,
            NULL FROM generate_series(1, cardinality(user_ids)) g;
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
        CROSS JOIN unnest(user_ids, request_ids, quantities) WITH ORDINALITY AS a (user_id, request_id, quantity, n)
        WHERE p.answer IS NOT NULL AND coalesce(a.quantity, 1) <= coalesce(p.claims_per_user, 100)
            AND (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = p.pool_no AND cs.user_id = a.user_id
            AND cs.unique_key = intake_private.unique_key_of(CASE WHEN p.claims_per_user IS NOT NULL THEN 1 END, 1,
            a.request_id)) IS NULL;
        RETURN QUERY SELECT t, answer, NULL::uuid, NULL::uuid, NULL::bigint, NULL, NULL::jsonb, NULL::timestamptz, NULL
        FROM unnest(took) t;
    ELSE
        ends := at + make_interval(secs => pool.hold_seconds);
        -- Users without a claim, no two requests with the same unique key, while the sequence has numbers. Numbers are
        -- drawn in the order of the requests; rows are inserted in the order of their keys, so that two batches with
        -- the same users do not deadlock. Payloads are read from their array at the end: sorted with the rest they would
        -- need temporary files, which a claimer may not have.
        WITH plain AS (
            SELECT DISTINCT ON (a.user_id, t.first_key, CASE WHEN t.first_key IS NULL THEN a.n END) a.*, t.first_key,
                coalesce(a.quantity, 1) AS parts
            FROM unnest(user_ids, request_ids, quantities) WITH ORDINALITY AS a (user_id, request_id, quantity, n)
            CROSS JOIN LATERAL (SELECT intake_private.unique_key_of(CASE WHEN pool.claims_per_user IS NOT NULL
                THEN 1 END, 1, a.request_id) AS first_key) t
            WHERE (SELECT cs.claim_id FROM intake.claimed_slots cs WHERE cs.pool_no = pool.pool_no
                    AND cs.user_id = a.user_id AND cs.unique_key = t.first_key) IS NULL
                AND coalesce(a.quantity, 1) <= coalesce(pool.claims_per_user, 100)
            ORDER BY a.user_id, t.first_key, CASE WHEN t.first_key IS NULL THEN a.n END, a.n),
        claim AS MATERIALIZED (
            SELECT d.*, intake_private.new_claim_id(d.slot_nos[1]) AS claim_id,
                nextval('pgmq.q_intake_queue_msg_id_seq') AS msg_id
            FROM (SELECT p.*, CASE p.parts WHEN 1 THEN ARRAY[nextval(pool.number_seq)]
                    ELSE ARRAY(SELECT nextval(pool.number_seq) FROM generate_series(1, p.parts)) END AS slot_nos
                FROM (SELECT * FROM plain ORDER BY n) p OFFSET 0) d),
        inserted AS (
            INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, part_no, parts,
                unique_key, status, locked_at)
            SELECT pool.pool_no, u.slot_no, c.msg_id, c.claim_id, c.user_id, c.request_id, u.part_no, c.parts,
                intake_private.unique_key_of(CASE WHEN pool.claims_per_user IS NOT NULL THEN u.part_no END,
                    u.part_no::int, c.request_id), CASE WHEN pool.hold_seconds IS NULL THEN 'R' ELSE 'H' END, at
            -- If the sequence does not have enough numbers for all, every request is handled one by one: inserting
            -- only some of them would break the order of keys.
            FROM claim c CROSS JOIN LATERAL unnest(c.slot_nos) WITH ORDINALITY AS u (slot_no, part_no)
            WHERE (SELECT max(l.slot_nos[l.parts]) FROM claim l) <= pool.capacity
            ORDER BY c.user_id, c.first_key, c.n, u.part_no
            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.claim_id),
        tried AS MATERIALIZED (
            SELECT c.*, c.parts = i.got IS TRUE AS claimed, CASE WHEN c.parts = 1 AND pool.resource_prefix IS NOT NULL
                THEN jsonb_build_array(intake_private.seat(c.slot_nos[1], intake_private.resource_of(
                    pool.resource_prefix, c.slot_nos[1]), NULL, NULL))
                ELSE intake_private.seats_of(pool, c.slot_nos) END AS seats
            FROM claim c LEFT JOIN (SELECT x.claim_id, count(*) AS got FROM inserted x GROUP BY x.claim_id) i
                ON i.claim_id = c.claim_id),
        queued AS (
            INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
            SELECT t.msg_id, at, intake_private.intent(t.claim_id, pool.pool_id, t.user_id, t.request_id, t.seats,
                payloads[t.n], at), intake_private.headers_of(traceparents[t.n])
            FROM tried t WHERE t.claimed AND pool.hold_seconds IS NULL),
        held AS (
            INSERT INTO intake.holds (claim_id, pool_no, msg_id, expires_at, message, headers)
            SELECT t.claim_id, pool.pool_no, t.msg_id, ends, intake_private.intent(t.claim_id, pool.pool_id, t.user_id,
                t.request_id, t.seats, payloads[t.n], at), intake_private.headers_of(traceparents[t.n])
            FROM tried t WHERE t.claimed AND pool.hold_seconds IS NOT NULL)
        SELECT array_agg(ROW(t.n, t.claimed, t.claim_id, t.slot_nos, t.seats)::intake_private.batch_claim),
            array_agg(t.n) FILTER (WHERE t.claimed) INTO made, took FROM tried t;
        IF pool.by_name THEN
            PERFORM intake_private.drop_from_free_list(pool.pool_no,
                ARRAY(SELECT u FROM unnest(made) m CROSS JOIN LATERAL unnest(m.slot_nos) u WHERE m.claimed));
        END IF;
        IF cardinality(took) IS DISTINCT FROM cardinality(made) THEN
            -- Another transaction used the same unique key, or a number is claimed already.
            PERFORM intake_private.give_numbers_back(pool.pool_no, m.claim_id, m.slot_nos) FROM unnest(made) m
            WHERE NOT m.claimed;
        END IF;
        RETURN QUERY SELECT m.n, CASE WHEN ends IS NULL THEN 'claimed' ELSE 'held' END, m.claim_id,
            coalesce(intake_private.resource_of(pool.resource_prefix, u.slot_no),
                (m.seats -> u.n ->> 'resource_id')::uuid), u.slot_no,
            CASE WHEN pool.resource_prefix IS NULL THEN m.seats -> u.n ->> 'label' END,
            CASE WHEN pool.resource_prefix IS NULL THEN nullif(m.seats -> u.n -> 'attributes', 'null') END, ends, NULL
        FROM unnest(made) m
        CROSS JOIN LATERAL (SELECT x.slot_no, (x.n - 1)::int AS n
            FROM unnest(m.slot_nos) WITH ORDINALITY AS x (slot_no, n)) u
        WHERE m.claimed;
    END IF;

    -- All other requests, one by one.
    IF cardinality(took) = cardinality(user_ids) THEN
        RETURN;
    END IF;
    FOR request IN SELECT a.* FROM unnest(user_ids, request_ids, quantities) WITH ORDINALITY
                AS a (user_id, request_id, quantity, n)
            WHERE a.n <> ALL (coalesce(took, '{}')) ORDER BY a.user_id, a.request_id, a.n LOOP
        RETURN QUERY SELECT request.n::int, c.* FROM intake_private.claim_slots(claim_batch.pool_id, request.user_id,
            request.request_id, coalesce(request.quantity, 1), payloads[request.n], at, traceparents[request.n]) c;
    END LOOP;
END $$;
COMMENT ON FUNCTION intake.claim_batch IS
    'Claim the next slots for each of 1 to 1000 requests, at most 4000 slots, in one transaction. The other arrays are '
    'parallel to user_ids; '
    'NULL, or a NULL in them, is what claim_resource() has as default (quantities: 1). Returns a row for each slot of '
    'each request, or one with the outcome that claim_resources() would have given; n is the position of the request, '
    'from 1. A repeated request with other content has the outcome different, and in `differs` quantity, seats or '
    'payload. The rows have no order. Raises IE002 for what cannot be taken, 40P01 (deadlock) where batches claim for '
    'the same users again, or beside claim_seats(): nothing was claimed then, send it again; and what claim_resource() '
    'raises.';

GRANT EXECUTE ON FUNCTION intake.claim_resource, intake.claim_resources, intake.claim_seats,
    intake.claim_batch TO claimer;
