-- The claim: one transaction that takes a slot and puts its intent on the LOGGED queue. Nothing is decoupled.
--
-- A ticket number (nextval) says where to try, the keys of the hold decide. Every statement here relies on seeing what
-- was committed before it, hence READ COMMITTED only. The queue row is a static INSERT, a quarter of what pgmq.send()
-- costs; a test pins it to what pgmq.send() writes.
--
-- Whether a list's slots or users are held is asked by a scalar subquery: a plan that was made while holds was small, and
-- stays with its session, then still goes by index when holds is large. NOT EXISTS would be joined by reading all of it.
--
-- claim_resource() is the plain case: a look at the pool, one at the user, two writes. Whatever is not plain goes to claim_slots(), which also
-- serves several seats, seats by name, and the callers of a batch that are not plain.

CREATE FUNCTION intake.intent(claim_id uuid, pool_id text, user_id text, request_id text, seat int, slot_no bigint,
    resource_id uuid, claimed_at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object('claim_id', claim_id, 'pool_id', pool_id, 'user_id', user_id, 'request_id', request_id,
    'seat', seat, 'slot_no', slot_no, 'resource_id', resource_id, 'claimed_at', claimed_at, 'state', 'queued',
    'failures', 0);
COMMENT ON FUNCTION intake.intent IS 'What a claim puts on the queue.';

CREATE FUNCTION intake.headers_of(traceparent text) RETURNS jsonb
LANGUAGE sql STABLE
-- What is no traceparent is ignored, as W3C Trace Context demands: no sale fails for its trace.
RETURN CASE WHEN traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
    THEN jsonb_build_object('traceparent', traceparent) END;
COMMENT ON FUNCTION intake.headers_of IS 'The headers of an intent: whose trace it belongs to, if anybody''s.';

CREATE FUNCTION intake.durable() RETURNS boolean
LANGUAGE sql STABLE
-- Without a synchronous standby `local` is as good as `on`. With one, `remote_write` trusts the memory of its machine.
RETURN current_setting('synchronous_commit') NOT IN ('off', 'local')
    OR current_setting('synchronous_commit') = 'local' AND current_setting('synchronous_standby_names') = '';
COMMENT ON FUNCTION intake.durable IS 'Whether a commit of this transaction, as it is set now, outlives a crash and, where there is a synchronous standby, the loss of this server.';

CREATE FUNCTION intake.can_claim(user_id text, request_id text) RETURNS boolean
LANGUAGE sql STABLE
RETURN (length(user_id) BETWEEN 1 AND 200 AND coalesce(length(request_id), 1) BETWEEN 1 AND 200
    AND current_setting('transaction_isolation') = 'read committed' AND intake.durable()) IS TRUE;
COMMENT ON FUNCTION intake.can_claim IS 'Whether a claim can be made with these, in this transaction.';

CREATE FUNCTION intake.refuse_forgetful() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT intake.durable() THEN
        RAISE EXCEPTION 'what is answered must outlive a crash, and synchronous_commit is %',
            current_setting('synchronous_commit') USING ERRCODE = 'IE002',
            HINT = 'Leave synchronous_commit on, from the call until the end of its transaction.';
    END IF;
END $$;
COMMENT ON FUNCTION intake.refuse_forgetful IS 'Refuse a transaction whose commit would not outlive what intake.durable() speaks of.';

CREATE FUNCTION intake.tell() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- What is seen here may not have reached a synchronous standby: the wait of its own transaction was cancelled, or
    -- ended with its connection. A transaction that writes nothing waits for nobody, and after a failover it would have
    -- told of a claim that never was. So it writes a word, and its commit waits for all that came before.
    IF current_setting('synchronous_standby_names') <> '' THEN
        PERFORM intake.refuse_forgetful();
        PERFORM pg_logical_emit_message(true, 'intake', 'told');
    END IF;
END $$;
COMMENT ON FUNCTION intake.tell IS 'Called before telling of what others wrote: where there is a synchronous standby, the answer waits until it has all of that, too.';

CREATE FUNCTION intake.refuse_claim(who text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'claims run in READ COMMITTED' USING ERRCODE = 'IE002',
            HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED, or no explicit transaction at all.';
    END IF;
    PERFORM intake.refuse_forgetful();
    RAISE EXCEPTION '%: user_id and request_id are texts of 1 to 200 characters', refuse_claim.who USING ERRCODE = 'IE002',
        HINT = 'request_id may be NULL; better give one that the client keeps across its retries.';
END $$;
COMMENT ON FUNCTION intake.refuse_claim IS 'Say why can_claim() said no.';

CREATE FUNCTION intake.shut(pool intake.pools, at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN pool.sealed OR at >= pool.closes_at THEN 'closed' WHEN at < pool.opens_at THEN 'not_open'
    WHEN pool.paused THEN 'paused' END;
COMMENT ON FUNCTION intake.shut IS 'Why a pool takes no claims at that time; NULL = it does.';

CREATE FUNCTION intake.requested(pool_no int, limited boolean, user_id text, request_id text) RETURNS SETOF intake.claimed_slots
LANGUAGE sql STABLE AS $$
    SELECT h.* FROM intake.claimed_slots h
    WHERE h.pool_no = requested.pool_no AND h.user_id = requested.user_id AND h.request_id = requested.request_id
        -- All turns where they count the user's claims, the request's own otherwise. '0' follows '/', ':' follows '9'.
        AND h.turn >= CASE WHEN limited THEN '' ELSE requested.request_id || '/' END
        AND h.turn < CASE WHEN limited THEN ':' ELSE requested.request_id || '0' END
$$;
COMMENT ON FUNCTION intake.requested IS 'The claims that a request has made, voided ones too.';

CREATE FUNCTION intake.draw(pool intake.pools, hand bigint[], quantity int) RETURNS bigint[]
LANGUAGE plpgsql AS $$
-- Tickets first, the free list after the last one. A number that is held already (claimed by name, or tickets that
-- start over after a restore) is passed by: never sell it twice.
DECLARE
    drawn bigint;
BEGIN
    FOR n IN 1..1000 LOOP -- a run of named seats longer than this takes another attempt
        EXIT WHEN pool.sold_out OR cardinality(hand) >= quantity;
        drawn := nextval(pool.ticket_seq);
        EXIT WHEN drawn > pool.capacity;
        IF NOT EXISTS (SELECT FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.slot_no = drawn) THEN
            hand := hand || drawn;
        END IF;
    END LOOP;
    IF cardinality(hand) < quantity THEN
        WITH found AS MATERIALIZED (
            SELECT x.slot_no FROM intake.free_numbers x WHERE x.pool_no = pool.pool_no
            LIMIT quantity - cardinality(hand) FOR UPDATE SKIP LOCKED),
        taken AS (
            DELETE FROM intake.free_numbers f USING found x WHERE f.pool_no = pool.pool_no AND f.slot_no = x.slot_no
            RETURNING f.slot_no)
        SELECT hand || coalesce(array_agg(t.slot_no), '{}') INTO hand FROM taken t;
    END IF;
    RETURN hand;
END $$;
COMMENT ON FUNCTION intake.draw IS 'Add numbers to a hand until there are quantity of them, as far as there are any.';

CREATE FUNCTION intake.claim_slots(pool_id text, user_id text, request_id text, quantity int, at timestamptz,
    traceparent text, named bigint DEFAULT NULL, hand bigint[] DEFAULT '{}')
RETURNS TABLE (outcome text, claim_id uuid, resource_id uuid, slot_no bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    pool     intake.pools;
    made     bigint;           -- claims the user has made, where there is a limit
    live     bigint;           -- of those, not voided
    took     bigint[];
    free     bigint;
    latched  boolean;
    settled  boolean := false;
    was_free boolean := false; -- the named number stood on the free list
    verdict  text;
BEGIN
    FOR attempt IN 1..20 LOOP
        -- Reading the hot row also takes the lock that seal() and settle() look for: it comes before any ticket.
        SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_slots.pool_id;
        IF NOT FOUND THEN
            PERFORM intake.config_of(claim_slots.pool_id);
            verdict := 'not_ready';
            EXIT;
        END IF;

        -- 1. What the user has. First of all: a retry gets its first answer whatever has happened since, burns no
        -- ticket and writes nothing. Counted before the request is looked for: the look then sees all that was counted,
        -- and what is committed after it has the next turn.
        IF pool.claims_per_user IS NOT NULL THEN
            SELECT count(*), count(*) FILTER (WHERE h.status <> 'V') INTO made, live
            FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.user_id = claim_slots.user_id;
        END IF;
        IF claim_slots.request_id IS NOT NULL THEN
            RETURN QUERY
            SELECT 'replayed', h.claim_id, intake.resource_at(pool.series, pool.pool_no, n.slot_no),
                n.slot_no
            FROM intake.requested(pool.pool_no, pool.claims_per_user IS NOT NULL, claim_slots.user_id, claim_slots.request_id) h
            CROSS JOIN LATERAL (SELECT coalesce(h.was_slot_no, h.slot_no) AS slot_no) n
            ORDER BY h.seat;
            IF FOUND THEN
                PERFORM intake.tell();
                verdict := 'replayed';
                EXIT;
            END IF;
        END IF;

        -- 2. Is the sale on, and may this user?
        verdict := intake.shut(pool, at);
        EXIT WHEN verdict IS NOT NULL;
        IF live + quantity > pool.claims_per_user THEN
            verdict := 'limit_reached';
            EXIT;
        END IF;

        -- 3. Numbers.
        IF named IS NOT NULL THEN
            IF EXISTS (SELECT FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.slot_no = named) THEN
                verdict := 'taken';
                EXIT;
            END IF;
            -- Its key on the free list first, whether it is there or not: whoever draws it or settle()s it waits there.
            INSERT INTO intake.free_numbers (pool_no, slot_no) VALUES (pool.pool_no, named) ON CONFLICT DO NOTHING;
            was_free := was_free OR NOT FOUND;
            DELETE FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = named;
            hand := ARRAY[named];
        ELSE
            hand := intake.draw(pool, hand, quantity);
        END IF;
        IF cardinality(hand) < quantity THEN
            -- One snapshot: at that instant every slot was taken but those in hand and on the free list.
            SELECT p.sold_out, (SELECT count(*) FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
            INTO latched, free FROM intake.pools p WHERE p.pool_no = pool.pool_no;
            IF latched AND free + cardinality(hand) < quantity THEN
                verdict := CASE free + cardinality(hand) WHEN 0 THEN 'sold_out' ELSE 'too_few' END;
                EXIT;
            END IF;
            -- Not known to be sold out: some numbers are in other claims' hands, or burnt.
            IF settled THEN
                verdict := 'busy';
                EXIT;
            END IF;
            settled := true;
            -- settle() would take the numbers in hand for burnt ones.
            INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no, u FROM unnest(hand) u
            ON CONFLICT DO NOTHING;
            hand := '{}';
            PERFORM intake.settle(pool.pool_no);
            CONTINUE;
        END IF;

        -- 4. Take them, all or none.
        WITH holding AS (
            INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, seat, turn, status,
                locked_at)
            SELECT pool.pool_no, u.slot_no, nextval('pgmq.q_intake_queue_msg_id_seq'), intake.new_claim_id(u.slot_no),
                claim_slots.user_id, claim_slots.request_id, u.n,
                intake.turn_of(made + u.n, u.n::int, claim_slots.request_id), 'R', at
            FROM unnest(hand) WITH ORDINALITY AS u (slot_no, n) WHERE u.n <= quantity
            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.slot_no)
        SELECT coalesce(array_agg(h.slot_no), '{}') INTO took FROM holding h;
        IF cardinality(took) = quantity THEN
            IF named IS NOT NULL THEN
                UPDATE intake.pools p SET by_name = true WHERE p.pool_no = pool.pool_no AND NOT p.by_name;
            ELSIF pool.by_name THEN
                PERFORM intake.strike(pool.pool_no, took);
            END IF;
            RETURN QUERY
            WITH mine AS (
                SELECT h.*, intake.resource_at(pool.series, h.pool_no, h.slot_no) AS resource_id
                FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.slot_no = ANY (took)),
            queued AS (
                INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
                SELECT m.msg_id, at, intake.intent(m.claim_id, pool.pool_id, m.user_id, m.request_id, m.seat,
                    m.slot_no, m.resource_id, at), intake.headers_of(claim_slots.traceparent)
                FROM mine m)
            SELECT 'claimed', m.claim_id, m.resource_id, m.slot_no FROM mine m ORDER BY m.seat;
            hand := hand[quantity + 1:];
            verdict := 'claimed';
            EXIT;
        END IF;
        -- Another claim of this user was faster, or a number is held after all. What is not held stays in hand.
        DELETE FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.slot_no = ANY (took);
        SELECT coalesce(array_agg(u.slot_no ORDER BY u.n), '{}') INTO hand
        FROM unnest(hand) WITH ORDINALITY AS u (slot_no, n)
        WHERE (SELECT h.claim_id FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.slot_no = u.slot_no) IS NULL;
    END LOOP;

    IF named IS NULL OR was_free THEN
        INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no, u FROM unnest(hand) u
        ON CONFLICT DO NOTHING;
    END IF;
    IF verdict IS NULL OR verdict NOT IN ('claimed', 'replayed') THEN
        RETURN QUERY SELECT coalesce(verdict, 'busy'), NULL::uuid, NULL::uuid, NULL::bigint;
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_slots IS 'Claim quantity slots, all or none: the named one, or the next, beginning with those in hand. A row a slot, or one row that says why not.';

CREATE FUNCTION intake.claim_resource(pool_id text, user_id text, request_id text DEFAULT NULL, traceparent text DEFAULT NULL,
    OUT outcome text, OUT claim_id uuid, OUT resource_id uuid, OUT slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- The wall clock, not now(): a transaction that was opened before the window closed must not claim after it.
    at         timestamptz := clock_timestamp();
    in_pool    int;
    series     text;
    capacity   bigint;
    ticket_seq regclass;
    open       boolean;
    sold_out   boolean;
    by_name    boolean;
    first_turn text;    -- of this user; turns have no gaps, so who has had any has had it
    msg_id     bigint;
BEGIN
    IF NOT intake.can_claim(claim_resource.user_id, claim_resource.request_id) THEN
        PERFORM intake.refuse_claim('claim_resource');
    END IF;
    -- Small statements into scalars: one that answers all of it at once costs the executor a fifth of a claim more.
    SELECT p.pool_no, p.series, p.capacity, p.ticket_seq, p.sold_out, p.by_name, intake.shut(p, at) IS NULL,
        intake.turn_of(CASE WHEN p.claims_per_user IS NOT NULL THEN 1 END, 1, claim_resource.request_id)
    INTO in_pool, series, capacity, ticket_seq, sold_out, by_name, open, first_turn
    FROM intake.pools p WHERE p.pool_id = claim_resource.pool_id;

    IF open AND sold_out THEN
        -- One snapshot: at that instant every slot was taken. And the user has nothing that could be asked for again.
        IF EXISTS (SELECT FROM intake.pools p WHERE p.pool_id = claim_resource.pool_id AND p.sold_out
                AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = in_pool)
                AND NOT EXISTS (SELECT FROM intake.claimed_slots h WHERE h.pool_no = in_pool
                    AND h.user_id = claim_resource.user_id AND h.turn = first_turn)) THEN
            outcome := 'sold_out';
            RETURN;
        END IF;
    ELSIF open THEN
        PERFORM FROM intake.claimed_slots h
        WHERE h.pool_no = in_pool AND h.user_id = claim_resource.user_id AND h.turn = first_turn;
        IF NOT FOUND THEN
            slot_no := nextval(ticket_seq);
            IF slot_no <= capacity THEN
                INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, seat, turn, status,
                    locked_at)
                VALUES (in_pool, claim_resource.slot_no, nextval('pgmq.q_intake_queue_msg_id_seq'),
                    intake.new_claim_id(claim_resource.slot_no), claim_resource.user_id, claim_resource.request_id, 1,
                    first_turn, 'R', at)
                ON CONFLICT DO NOTHING
                RETURNING claimed_slots.claim_id, claimed_slots.msg_id INTO claim_id, msg_id;
                IF FOUND THEN
                    IF by_name THEN
                        PERFORM intake.strike(in_pool, ARRAY[claim_resource.slot_no]);
                    END IF;
                    IF series IS NULL THEN
                        resource_id := intake.resource_at(NULL, in_pool, slot_no);
                    ELSE
                        resource_id := intake.resource_of(series, slot_no);
                    END IF;
                    INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
                    VALUES (msg_id, at, intake.intent(claim_resource.claim_id, claim_resource.pool_id,
                        claim_resource.user_id, claim_resource.request_id, 1, claim_resource.slot_no,
                        claim_resource.resource_id, at), intake.headers_of(claim_resource.traceparent));
                    outcome := 'claimed';
                    RETURN;
                END IF;
            ELSE
                slot_no := NULL;
            END IF;
        END IF;
    END IF;

    -- A retry, a user with claims, a closed window, a number that is taken, the last slots.
    SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no INTO outcome, claim_id, resource_id, slot_no
    FROM intake.claim_slots(claim_resource.pool_id, claim_resource.user_id, claim_resource.request_id, 1, at,
        claim_resource.traceparent, hand => array_remove(ARRAY[claim_resource.slot_no], NULL)) c;
END $$;
COMMENT ON FUNCTION intake.claim_resource IS 'Claim the next slot. outcome: claimed, replayed, sold_out, limit_reached, not_open, closed, paused, busy or not_ready.';

CREATE FUNCTION intake.claim_resources(pool_id text, user_id text, quantity int, request_id text DEFAULT NULL,
    traceparent text DEFAULT NULL)
RETURNS TABLE (outcome text, claim_id uuid, resource_id uuid, slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT intake.can_claim(claim_resources.user_id, claim_resources.request_id) THEN
        PERFORM intake.refuse_claim('claim_resources');
    END IF;
    IF coalesce(quantity, 0) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'quantity is 1 to 100, not %', coalesce(quantity::text, 'NULL') USING ERRCODE = 'IE002',
            HINT = 'Larger groups are several requests.';
    END IF;
    RETURN QUERY SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no
    FROM intake.claim_slots(claim_resources.pool_id, claim_resources.user_id, claim_resources.request_id, quantity,
        clock_timestamp(), claim_resources.traceparent) c;
END $$;
COMMENT ON FUNCTION intake.claim_resources IS 'Claim several slots, all or none: a row for each, or one row with an outcome of claim_resource() or too_few.';

CREATE FUNCTION intake.claim_seat(pool_id text, user_id text, seat text, request_id text DEFAULT NULL, traceparent text DEFAULT NULL,
    OUT outcome text, OUT claim_id uuid, OUT resource_id uuid, OUT slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at    timestamptz := clock_timestamp();
    pool  intake.pools;
    named bigint;
BEGIN
    IF NOT intake.can_claim(claim_seat.user_id, claim_seat.request_id) THEN
        PERFORM intake.refuse_claim('claim_seat');
    END IF;
    SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_seat.pool_id;
    IF FOUND THEN
        -- As stock() has written it. No label is another slot's id.
        SELECT s.slot_no INTO named FROM intake.slots s
        WHERE s.pool_no = pool.pool_no AND s.label = normalize(claim_seat.seat, NFC);
        IF named IS NULL AND intake.as_id(claim_seat.seat) IS NOT NULL THEN
            SELECT s.slot_no INTO named FROM intake.slots s
            WHERE s.pool_no = pool.pool_no AND s.resource_id = intake.as_id(claim_seat.seat);
        END IF;
        IF named IS NULL THEN
            RAISE EXCEPTION 'pool % has no seat %', claim_seat.pool_id, coalesce(quote_literal(claim_seat.seat), 'NULL')
                USING ERRCODE = 'IE005', HINT = 'A seat is named by its label or its resource id.';
        END IF;
    END IF;
    SELECT c.outcome, c.claim_id, c.resource_id, c.slot_no INTO outcome, claim_id, resource_id, slot_no
    FROM intake.claim_slots(claim_seat.pool_id, claim_seat.user_id, claim_seat.request_id, 1, at, claim_seat.traceparent,
        named) c;
END $$;
COMMENT ON FUNCTION intake.claim_seat IS 'Claim the slot with this label or resource id. outcome: as claim_resource(), or taken.';

CREATE FUNCTION intake.claim_batch(pool_id text, user_ids text[], request_ids text[] DEFAULT NULL,
    traceparent text DEFAULT NULL)
RETURNS TABLE (n int, outcome text, claim_id uuid, resource_id uuid, slot_no bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at        timestamptz := clock_timestamp();
    pool      intake.pools;
    bad       bigint;
    word      text;     -- the one answer to all who have nothing that could be asked for again
    drawn     bigint[]; -- tickets of the plain callers
    took      int[];    -- who drew them; then, of those, who has a slot now, and in step with it what they have
    slots     bigint[];
    claims    uuid[];
    resources uuid[];
    caller    record;
BEGIN
    IF coalesce(cardinality(user_ids), 0) NOT BETWEEN 1 AND 1000 OR cardinality(request_ids) <> cardinality(user_ids)
            OR array_ndims(user_ids) > 1 OR array_ndims(request_ids) > 1 THEN
        RAISE EXCEPTION 'a batch is 1 to 1000 user_ids, and request_ids parallel to them or none' USING ERRCODE = 'IE002',
            HINT = 'Larger crowds are several batches.';
    END IF;
    SELECT min(a.n) INTO bad FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
    WHERE NOT intake.can_claim(a.user_id, a.request_id);
    IF bad IS NOT NULL THEN
        PERFORM intake.refuse_claim(format('caller %s of the batch', bad));
    END IF;
    SELECT p.* INTO pool FROM intake.pools p WHERE p.pool_id = claim_batch.pool_id;

    IF pool.pool_no IS NULL THEN
        PERFORM intake.config_of(claim_batch.pool_id);
        RETURN QUERY SELECT g, 'not_ready', NULL::uuid, NULL::uuid, NULL::bigint
        FROM generate_series(1, cardinality(user_ids)) g;
        RETURN;
    END IF;
    IF intake.shut(pool, at) IS NOT NULL OR pool.sold_out THEN
        -- The crowd that is too early, too late, or comes after the last slot. One snapshot, as in claim_resource(): at
        -- that instant every slot was taken, and none of these had a first turn. Who had one may be asking again, and is
        -- looked at below.
        SELECT min(p.word), array_agg(a.n) INTO word, took
        FROM (SELECT p.pool_no, p.claims_per_user, coalesce(intake.shut(p, at), CASE
                WHEN p.sold_out AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = p.pool_no)
                THEN 'sold_out' END) AS word
            FROM intake.pools p WHERE p.pool_id = claim_batch.pool_id OFFSET 0) p
        CROSS JOIN unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
        WHERE p.word IS NOT NULL AND (SELECT h.claim_id FROM intake.claimed_slots h WHERE h.pool_no = p.pool_no
            AND h.user_id = a.user_id AND h.turn = intake.turn_of(CASE WHEN p.claims_per_user IS NOT NULL THEN 1 END, 1,
            a.request_id)) IS NULL;
        RETURN QUERY SELECT t, word, NULL::uuid, NULL::uuid, NULL::bigint FROM unnest(took) t;
    ELSE
        -- The crowd while there are tickets: callers who are not known, no two with the same turn. Who comes first draws
        -- first; the holds are made in the order of their keys, so that two batches with the same users do not deadlock.
        WITH plain AS (
            SELECT DISTINCT ON (a.user_id, t.turn, CASE WHEN t.turn IS NULL THEN a.n END) a.*, t.turn
            FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
            CROSS JOIN LATERAL (SELECT intake.turn_of(CASE WHEN pool.claims_per_user IS NOT NULL THEN 1 END, 1,
                a.request_id) AS turn) t
            WHERE (SELECT h.claim_id FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.user_id = a.user_id
                AND h.turn = t.turn) IS NULL
            ORDER BY a.user_id, t.turn, CASE WHEN t.turn IS NULL THEN a.n END, a.n),
        ticketed AS MATERIALIZED (
            SELECT p.*, nextval(pool.ticket_seq) AS slot_no FROM (SELECT * FROM plain ORDER BY n) p),
        holding AS (
            INSERT INTO intake.claimed_slots (pool_no, slot_no, msg_id, claim_id, user_id, request_id, seat, turn, status,
                locked_at)
            SELECT pool.pool_no, t.slot_no, nextval('pgmq.q_intake_queue_msg_id_seq'), intake.new_claim_id(t.slot_no),
                t.user_id, t.request_id, 1, t.turn, 'R', at
            -- If the tickets do not reach for all, everybody goes one by one: those with a ticket would take their turn
            -- out of the order of keys.
            FROM ticketed t WHERE (SELECT max(l.slot_no) FROM ticketed l) <= pool.capacity
            ORDER BY t.user_id, t.turn, t.n
            ON CONFLICT DO NOTHING
            RETURNING claimed_slots.*),
        claimed AS MATERIALIZED (
            -- resource_at() by hand: a function with a subquery is not inlined.
            SELECT h.*, coalesce(intake.resource_of(pool.series, h.slot_no), (SELECT s.resource_id FROM intake.slots s
                WHERE s.pool_no = h.pool_no AND s.slot_no = h.slot_no)) AS resource_id
            FROM holding h),
        queued AS (
            INSERT INTO pgmq.q_intake_queue (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
            SELECT c.msg_id, at, intake.intent(c.claim_id, pool.pool_id, c.user_id, c.request_id, 1, c.slot_no,
                c.resource_id, at), intake.headers_of(claim_batch.traceparent)
            FROM claimed c)
        SELECT d.callers, d.slots, c.slots, c.claims, c.resources INTO took, drawn, slots, claims, resources
        FROM (SELECT array_agg(t.n ORDER BY t.slot_no) AS callers, array_agg(t.slot_no ORDER BY t.slot_no) AS slots
            FROM ticketed t WHERE t.slot_no <= pool.capacity) d
        CROSS JOIN (SELECT array_agg(c.slot_no ORDER BY c.slot_no) AS slots,
            array_agg(c.claim_id ORDER BY c.slot_no) AS claims, array_agg(c.resource_id ORDER BY c.slot_no) AS resources
            FROM claimed c) c;
        IF pool.by_name THEN
            PERFORM intake.strike(pool.pool_no, slots);
        END IF;
        IF slots IS DISTINCT FROM drawn THEN
            -- Somebody with the same turn was faster, or a number is held already.
            SELECT array_agg(d.n ORDER BY d.slot_no) INTO took FROM unnest(took, drawn) AS d (n, slot_no)
            WHERE d.slot_no = ANY (slots);
            INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT pool.pool_no, d.slot_no FROM unnest(drawn) d (slot_no)
            WHERE (SELECT h.claim_id FROM intake.claimed_slots h WHERE h.pool_no = pool.pool_no AND h.slot_no = d.slot_no) IS NULL
            ON CONFLICT DO NOTHING;
        END IF;
        RETURN QUERY SELECT c.n, 'claimed', c.claim_id, c.resource_id, c.slot_no
        FROM unnest(took, claims, resources, slots) AS c (n, claim_id, resource_id, slot_no);
    END IF;

    -- Everybody else, one by one.
    IF cardinality(took) = cardinality(user_ids) THEN
        RETURN;
    END IF;
    FOR caller IN SELECT a.* FROM unnest(user_ids, request_ids) WITH ORDINALITY AS a (user_id, request_id, n)
            WHERE a.n <> ALL (coalesce(took, '{}')) ORDER BY a.user_id, a.request_id, a.n LOOP
        RETURN QUERY SELECT caller.n::int, c.outcome, c.claim_id, c.resource_id, c.slot_no
        FROM intake.claim_slots(claim_batch.pool_id, caller.user_id, caller.request_id, 1, at,
            claim_batch.traceparent) c LIMIT 1;
    END LOOP;
END $$;
COMMENT ON FUNCTION intake.claim_batch IS 'Claim the next slots for many callers in one transaction: a row for each, with what claim_resource() would have said. n says whose it is; the rows come in no order.';

CREATE FUNCTION intake.state_of(hold intake.claimed_slots) RETURNS text
LANGUAGE sql STABLE
RETURN CASE hold.status
    WHEN 'C' THEN 'committed'
    -- A discarded dead letter is in the archive of the dead letters.
    WHEN 'V' THEN coalesce((SELECT a.message ->> 'outcome' FROM pgmq.a_intake_queue a WHERE a.msg_id = hold.msg_id), 'voided')
    ELSE coalesce((SELECT CASE WHEN q.message ? 'release' THEN 'releasing' ELSE q.message ->> 'state' END
        FROM pgmq.q_intake_queue q WHERE q.msg_id = hold.msg_id), 'dead') END;
COMMENT ON FUNCTION intake.state_of IS 'Where a claim stands: queued, validated, committing, releasing, committed, voided, released or dead.';

CREATE FUNCTION intake.hold_of(pool_no int, claim_id uuid) RETURNS intake.claimed_slots
LANGUAGE sql STABLE SET enable_seqscan = off -- by key, whatever the statistics say of a table that fills meanwhile
RETURN (SELECT h FROM intake.claimed_slots h
    WHERE h.pool_no = hold_of.pool_no AND h.claim_id = hold_of.claim_id AND h.slot_no IN (
        SELECT intake.slot_of(hold_of.claim_id)
        -- Voided: its slot may be another's by now.
        UNION ALL SELECT -a.msg_id FROM pgmq.a_intake_queue a
        WHERE a.message ->> 'claim_id' = hold_of.claim_id::text AND a.message ->> 'outcome' <> 'committed'
        UNION ALL SELECT -(d.message ->> 'queued_as')::bigint FROM pgmq.a_intake_dlq d
        WHERE d.message ->> 'claim_id' = hold_of.claim_id::text));
COMMENT ON FUNCTION intake.hold_of IS 'A claim by its id, or NULL.';

CREATE FUNCTION intake.claim_status(pool_id text, claim_id uuid,
    OUT state text, OUT slot_no bigint, OUT resource_id uuid, OUT label text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(claim_status.pool_id);
BEGIN
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        state := 'not_ready';
        RETURN;
    END IF;
    -- One snapshot: a claim that ends between two looks is found in neither place, and taken for dead.
    SELECT intake.state_of(f.hold), s.slot_no, s.resource_id, s.label INTO state, slot_no, resource_id, label
    FROM (SELECT intake.hold_of(config.pool_no, claim_status.claim_id) AS hold OFFSET 0) f
    LEFT JOIN intake.slots s ON s.pool_no = config.pool_no AND s.slot_no = coalesce((f.hold).was_slot_no, (f.hold).slot_no)
    WHERE (f.hold).claim_id IS NOT NULL;
    IF FOUND THEN
        PERFORM intake.tell();
    ELSE
        state := 'unknown';
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_status(text, uuid) IS 'One claim: queued, validated, committing, releasing, committed, voided, released, dead, unknown, or not_ready while the pool is.';

CREATE FUNCTION intake.claim_status(pool_id text, user_id text, request_id text)
RETURNS TABLE (claim_id uuid, state text, slot_no bigint, resource_id uuid, label text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(claim_status.pool_id);
BEGIN
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        claim_status.state := 'not_ready';
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT h.claim_id, intake.state_of(h), s.slot_no, s.resource_id, s.label
    FROM intake.requested(config.pool_no, config.claims_per_user IS NOT NULL, claim_status.user_id, claim_status.request_id) h
    JOIN intake.slots s ON s.pool_no = h.pool_no AND s.slot_no = coalesce(h.was_slot_no, h.slot_no)
    ORDER BY h.seat;
    IF FOUND THEN
        PERFORM intake.tell();
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_status(text, text, text) IS 'The claims of a request, a row for each seat; none if it has made none; one row, not_ready, while the pool is.';

CREATE FUNCTION intake.release_claim(pool_id text, claim_id uuid, reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(release_claim.pool_id);
    hold   intake.claimed_slots;
    intent pgmq.q_intake_queue;
    state  text;
BEGIN
    IF coalesce(length(release_claim.reason), 0) NOT BETWEEN 1 AND 200 OR release_claim.claim_id IS NULL THEN
        RAISE EXCEPTION 'release_claim needs a claim and a reason of 1 to 200 characters' USING ERRCODE = 'IE002',
            HINT = 'The reason stays with the claim for those who look later.';
    END IF;
    PERFORM intake.refuse_forgetful();
    -- Before the first snapshot: while seed() rebuilds the holds, this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        RETURN 'not_ready';
    END IF;
    LOOP
        hold := intake.hold_of(config.pool_no, release_claim.claim_id);
        IF hold.claim_id IS NULL THEN
            RETURN 'unknown';
        END IF;
        SELECT q.* INTO intent FROM pgmq.q_intake_queue q WHERE q.msg_id = hold.msg_id FOR UPDATE;
        EXIT WHEN FOUND;
        -- It has ended, perhaps while we waited for it. Or it was replayed, as another message: look again.
        state := intake.state_of(intake.hold_of(config.pool_no, release_claim.claim_id));
        IF state IN ('committed', 'voided', 'released', 'dead') THEN
            PERFORM intake.tell(); -- the other answers have locked the message, which is a write
            RETURN state;
        END IF;
    END LOOP;
    IF intent.message ? 'release' THEN
        RETURN 'releasing';
    ELSIF intent.message ->> 'state' = 'committing' THEN
        RETURN 'committing';
    ELSIF intent.read_ct > 0 THEN
        -- Some bridge has had it in hand; only the ledger can say that it did not commit.
        PERFORM intake.recall(config.pool_no, ARRAY[hold.msg_id], release_claim.reason);
        RETURN 'releasing';
    END IF;
    -- Nobody has read it, and as long as we hold its row nobody can.
    PERFORM intake.archive(config.pool_id, ARRAY[hold.msg_id], ARRAY['released'],
        jsonb_build_object('release', jsonb_build_object('reason', release_claim.reason, 'at', clock_timestamp())));
    RETURN 'released';
END $$;
COMMENT ON FUNCTION intake.release_claim IS 'Give a claim up. released: its slot is free; releasing: as soon as the ledger has voided it; committing, committed, voided, dead, unknown: nothing changed.';

GRANT EXECUTE ON FUNCTION intake.claim_resource, intake.claim_resources, intake.claim_seat, intake.claim_batch,
    intake.release_claim TO claimer;
GRANT EXECUTE ON FUNCTION intake.claim_status(text, uuid), intake.claim_status(text, text, text) TO claimer, monitor;
