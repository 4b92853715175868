-- What a bridge does to messages: read, mark, extend, acknowledge, give back, dead-letter; and what people do to dead
-- letters: list, replay, discard.
--
-- The lease is (msg_id, read_ct): pgmq has no receipt handle, but read_ct grows with every read. Every change carries
-- both and touches only rows where both still match, so a worker that lost its lease changes nothing and learns it
-- from what is returned. Giving back ends a lease, too: headers names the worker for as long as it lasts. Rows are
-- locked in msg_id order, or not waited for, so two calls never deadlock.
--
-- A message that still names a worker when it is read again had a delivery without an end: its bridge died, or hung. After
-- three of them it is set apart, and read alone: whoever dies of it takes nobody else along, and only what it does alone
-- counts. After three more it is a dead letter.
--
-- All of it goes by key, whatever the statistics say: enable_seqscan is off in what bridges call. The planner takes what is
-- asked of a message for rarer than it is, and would read the whole queue for a batch of some hundreds.

CREATE TABLE intake.releases (
    msg_id  bigint PRIMARY KEY,
    pool_no int    NOT NULL
);
COMMENT ON TABLE intake.releases IS 'Messages whose claim the ledger is to void: released by its fan after a bridge had read it, or its hold expired.';

CREATE TABLE intake.quarantine (
    msg_id  bigint PRIMARY KEY,
    pool_no int    NOT NULL
);
COMMENT ON TABLE intake.quarantine IS 'Messages that are read alone, because three deliveries of them had no end. Their headers say `alone`.';

CREATE TYPE intake.leased_message AS (msg_id bigint, read_ct int, claim_id uuid, user_id text, slot_no bigint,
    resource_id uuid, request_id text, claimed_at timestamptz, state text, failures int, enqueued_at timestamptz,
    headers jsonb, release boolean);
COMMENT ON TYPE intake.leased_message IS 'A message as a bridge gets it in hand; (msg_id, read_ct) is its lease.';

CREATE FUNCTION intake.lease(config intake.engine_config, worker text, msg_ids bigint[], approved boolean, release boolean)
RETURNS SETOF intake.leased_message
LANGUAGE sql AS $$
    WITH leased AS (
        UPDATE pgmq.q_intake_queue q SET read_ct = q.read_ct + 1, last_read_at = clock_timestamp(),
            vt = clock_timestamp() + make_interval(secs => config.visibility_timeout_seconds),
            headers = CASE WHEN q.headers ? 'worker'
                THEN q.headers || jsonb_build_object('worker', lease.worker, 'unended',
                    coalesce((q.headers ->> 'unended')::int, 0) + 1)
                ELSE coalesce(q.headers, '{}') || jsonb_build_object('worker', lease.worker) END,
            message = CASE WHEN lease.approved AND q.message ->> 'state' = 'queued'
                THEN q.message || '{"state": "validated"}' ELSE q.message END
        WHERE q.msg_id = ANY (lease.msg_ids)
        RETURNING q.*)
    SELECT l.msg_id, l.read_ct, (l.message ->> 'claim_id')::uuid, l.message ->> 'user_id',
        (l.message ->> 'slot_no')::bigint, (l.message ->> 'resource_id')::uuid, l.message ->> 'request_id',
        (l.message ->> 'claimed_at')::timestamptz, l.message ->> 'state', (l.message ->> 'failures')::int,
        l.enqueued_at, l.headers, lease.release
    FROM leased l ORDER BY l.msg_id;
$$;
COMMENT ON FUNCTION intake.lease IS 'Lease messages that the caller has locked; approved = mark them validated with it.';

CREATE FUNCTION intake.never_ended(headers jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    -- Two that were seen, and the one of the worker it still names.
    SELECT headers ? 'worker' AND coalesce((headers ->> 'unended')::int, 0) >= 2;
$$;
COMMENT ON FUNCTION intake.never_ended IS 'Whether three deliveries in a row had no end.';

CREATE FUNCTION intake.quarantine_messages(pool_no int, msg_ids bigint[]) RETURNS void
LANGUAGE sql AS $$
    -- From here it is counted anew. Without a worker nobody who still has it in hand can change it.
    WITH apart AS (
        UPDATE pgmq.q_intake_queue q SET headers = q.headers - 'worker' || '{"alone": true, "unended": 0}'
        WHERE q.msg_id = ANY (quarantine_messages.msg_ids)
        RETURNING q.msg_id)
    INSERT INTO intake.quarantine (msg_id, pool_no) SELECT a.msg_id, quarantine_messages.pool_no FROM apart a;
$$;
COMMENT ON FUNCTION intake.quarantine_messages IS 'From now on these messages, which the caller has locked, are read alone.';

CREATE FUNCTION intake.reader(pool_id text, worker text, max_messages int) RETURNS intake.engine_config
LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(reader.max_messages, 0) NOT BETWEEN 1 AND 10000 OR coalesce(reader.worker, '') = '' THEN
        RAISE EXCEPTION 'reading needs a worker and 1 to 10000 messages' USING ERRCODE = 'IE002',
            HINT = 'The worker''s name is written to the headers of what it reads.';
    END IF;
    -- What is read is sent to the ledger: a claim that no standby has yet must wait for it here.
    PERFORM intake.refuse_forgetful();
    RETURN intake.config_of(reader.pool_id);
END $$;
COMMENT ON FUNCTION intake.reader IS 'The configuration for one who may read.';

CREATE FUNCTION intake.read_batch(pool_id text, worker text, max_messages int) RETURNS SETOF intake.leased_message
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- In the order of vt's index, whatever the statistics say of a queue that is empty in one minute and a million deep in
-- the next: any other plan reads all of it.
SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    config intake.engine_config := intake.reader(read_batch.pool_id, read_batch.worker, read_batch.max_messages);
    at     timestamptz := clock_timestamp();
    due    bigint[];
    apart  bigint[];
BEGIN
    IF config.paused THEN
        RETURN;
    END IF;
    -- By the time when they fell due: leased and delayed messages lie ahead and are never visited, and nothing is
    -- remembered, so that a message which is committed later than its neighbours, with an old vt, is simply the first.
    SELECT array_agg(d.msg_id), array_agg(d.msg_id) FILTER (WHERE d.never_ended) INTO due, apart FROM (
        SELECT q.msg_id, intake.never_ended(q.headers) FROM pgmq.q_intake_queue q
        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND NOT q.message ? 'release'
            AND (q.headers ? 'alone') IS NOT TRUE
        ORDER BY q.vt LIMIT read_batch.max_messages
        FOR UPDATE SKIP LOCKED) d;
    IF apart IS NOT NULL THEN
        PERFORM intake.quarantine_messages(config.pool_no, apart);
        due := ARRAY(SELECT unnest(due) EXCEPT SELECT unnest(apart));
    END IF;
    -- Nobody is to be asked: the mark is written with the lease, which saves rewriting each message once more.
    RETURN QUERY SELECT * FROM intake.lease(config, read_batch.worker, due, config.validation IS NULL, false);
END $$;
COMMENT ON FUNCTION intake.read_batch IS 'Lease up to max_messages due messages, those first that fell due first, for the configured visibility timeout. Nothing while the pool is paused.';

CREATE FUNCTION intake.read_releases(pool_id text, worker text, max_messages int) RETURNS SETOF intake.leased_message
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake.reader(read_releases.pool_id, read_releases.worker, read_releases.max_messages);
    at     timestamptz := clock_timestamp();
    due    bigint[];
    apart  bigint[];
BEGIN
    IF config.paused THEN
        RETURN;
    END IF;
    SELECT array_agg(d.msg_id), array_agg(d.msg_id) FILTER (WHERE d.never_ended) INTO due, apart FROM (
        SELECT q.msg_id, intake.never_ended(q.headers) FROM intake.releases r JOIN pgmq.q_intake_queue q USING (msg_id)
        WHERE r.pool_no = config.pool_no AND q.vt <= at AND (q.headers ? 'alone') IS NOT TRUE
        ORDER BY q.msg_id LIMIT read_releases.max_messages
        FOR UPDATE OF q SKIP LOCKED) d;
    IF apart IS NOT NULL THEN
        PERFORM intake.quarantine_messages(config.pool_no, apart);
        due := ARRAY(SELECT unnest(due) EXCEPT SELECT unnest(apart));
    END IF;
    RETURN QUERY SELECT * FROM intake.lease(config, read_releases.worker, due, false, true);
END $$;
COMMENT ON FUNCTION intake.read_releases IS 'Lease messages whose claims the ledger is to void, as read_batch() leases the others.';

CREATE FUNCTION intake.recall(pool_no int, msg_ids bigint[], reason text) RETURNS void
LANGUAGE sql AS $$
    -- Whoever has it leased loses the lease: read_ct is the fence.
    WITH recalled AS (
        UPDATE pgmq.q_intake_queue q SET read_ct = q.read_ct + 1, vt = clock_timestamp(),
            headers = q.headers - 'worker', -- that delivery ends here
            message = q.message
                || jsonb_build_object('release', jsonb_build_object('reason', recall.reason, 'at', clock_timestamp()))
        WHERE q.msg_id = ANY (recall.msg_ids)
        RETURNING q.msg_id)
    INSERT INTO intake.releases (msg_id, pool_no) SELECT r.msg_id, recall.pool_no FROM recalled r;
$$;
COMMENT ON FUNCTION intake.recall IS 'Take messages that the caller has locked out of the bridges'' hands, to be voided in the ledger.';

CREATE FUNCTION intake.leased(pool_id text, msg_ids bigint[], read_cts int[]) RETURNS SETOF bigint
LANGUAGE plpgsql ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
-- Nor is each message compared with each lease, for the same reason: 500 of them took 200 ms with 3000 in flight.
SET enable_nestloop = off AS $$
#variable_conflict use_column
BEGIN
    IF leased.msg_ids IS NULL OR cardinality(leased.msg_ids) IS DISTINCT FROM cardinality(leased.read_cts) THEN
        RAISE EXCEPTION 'msg_ids and read_cts are parallel arrays' USING ERRCODE = 'IE002',
            HINT = 'Give both as read_batch returned them.';
    END IF;
    PERFORM intake.refuse_forgetful(); -- what is marked is acted upon
    PERFORM intake.config_of(leased.pool_id);
    RETURN QUERY
    SELECT q.msg_id FROM pgmq.q_intake_queue q
    JOIN unnest(leased.msg_ids, leased.read_cts) AS f (msg_id, read_ct) ON q.msg_id = f.msg_id AND q.read_ct = f.read_ct
    WHERE q.msg_id = ANY (leased.msg_ids) AND q.message ->> 'pool_id' = leased.pool_id AND q.headers ? 'worker'
    ORDER BY q.msg_id FOR UPDATE OF q;
END $$;
COMMENT ON FUNCTION intake.leased IS 'The fence: locks and returns those of the messages whose lease still stands.';

CREATE FUNCTION intake.mark_validated(pool_id text, msg_ids bigint[], read_cts int[]) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    UPDATE pgmq.q_intake_queue q SET message = q.message || '{"state": "validated"}'
    WHERE q.msg_id IN (SELECT intake.leased(mark_validated.pool_id, mark_validated.msg_ids, mark_validated.read_cts))
        AND q.message ->> 'state' IN ('queued', 'validated')
    RETURNING q.msg_id;
$$;
COMMENT ON FUNCTION intake.mark_validated IS 'Remember that validation approved, before any commit is tried.';

CREATE FUNCTION intake.mark_committing(pool_id text, msg_ids bigint[], read_cts int[]) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    UPDATE pgmq.q_intake_queue q SET message = q.message || '{"state": "committing"}'
    WHERE q.msg_id IN (SELECT intake.leased(mark_committing.pool_id, mark_committing.msg_ids, mark_committing.read_cts))
    RETURNING q.msg_id;
$$;
COMMENT ON FUNCTION intake.mark_committing IS 'Remember that a commit which cannot be fenced may have been tried: from here only committed or dead letter.';

CREATE FUNCTION intake.extend(pool_id text, msg_ids bigint[], read_cts int[]) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    UPDATE pgmq.q_intake_queue q SET vt = clock_timestamp() + make_interval(
        secs => (intake.config_of(extend.pool_id)).visibility_timeout_seconds)
    WHERE q.msg_id IN (SELECT intake.leased(extend.pool_id, extend.msg_ids, extend.read_cts))
    RETURNING q.msg_id;
$$;
COMMENT ON FUNCTION intake.extend IS 'Renew leases for another visibility timeout, from now.';

CREATE FUNCTION intake.give_back(pool_id text, msg_ids bigint[], read_cts int[], delays_seconds float8[], errors text[])
RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    IF cardinality(give_back.delays_seconds) IS DISTINCT FROM cardinality(give_back.msg_ids)
            OR cardinality(give_back.errors) IS DISTINCT FROM cardinality(give_back.msg_ids) THEN
        RAISE EXCEPTION 'delays_seconds and errors are parallel to msg_ids' USING ERRCODE = 'IE002',
            HINT = 'An error of NULL means: not the message''s fault, do not count it.';
    END IF;
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT l AS msg_id FROM intake.leased(give_back.pool_id, give_back.msg_ids, give_back.read_cts) l),
    rejoined AS (
        DELETE FROM intake.quarantine l USING held WHERE l.msg_id = held.msg_id)
    -- The lease is over: who asks again, because the answer was lost, must not count the same failure twice.
    UPDATE pgmq.q_intake_queue q SET vt = clock_timestamp() + make_interval(secs => coalesce(g.delay, 0)),
        headers = q.headers - ARRAY['worker', 'unended', 'alone'],
        message = CASE WHEN g.error IS NULL THEN q.message ELSE q.message || jsonb_build_object(
            'failures', (q.message ->> 'failures')::int + 1, 'last_error', left(g.error, 2000)) END
    FROM held JOIN unnest(give_back.msg_ids, give_back.delays_seconds, give_back.errors) AS g (msg_id, delay, error)
        USING (msg_id)
    WHERE q.msg_id = held.msg_id
    RETURNING q.msg_id;
END $$;
COMMENT ON FUNCTION intake.give_back IS 'Return messages to the queue, visible after a delay; an error counts as a failure of the message, NULL does not.';

CREATE FUNCTION intake.settle_slots(pool_id text, slot_nos bigint[], claim_ids uuid[], outcomes text[]) RETURNS void
LANGUAGE sql AS $$
    WITH ended AS (
        SELECT c.pool_no, e.*
        FROM unnest(settle_slots.slot_nos, settle_slots.claim_ids, settle_slots.outcomes) AS e (slot_no, claim_id, outcome)
        JOIN intake.engine_config c ON c.pool_id = settle_slots.pool_id),
    consumed AS (
        UPDATE intake.claimed_slots h SET status = 'C' FROM ended e
        WHERE e.outcome = 'committed' AND h.pool_no = e.pool_no AND h.slot_no = e.slot_no AND h.claim_id = e.claim_id),
    voided AS (
        UPDATE intake.claimed_slots h SET status = 'V', was_slot_no = h.slot_no, slot_no = -h.msg_id FROM ended e
        WHERE e.outcome <> 'committed' AND h.pool_no = e.pool_no AND h.slot_no = e.slot_no AND h.claim_id = e.claim_id
        RETURNING h.pool_no, h.was_slot_no)
    INSERT INTO intake.free_numbers (pool_no, slot_no) SELECT v.pool_no, v.was_slot_no FROM voided v
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION intake.settle_slots IS 'What the end of a claim does to its slot: committed consumes it, voided or released frees it.';

CREATE FUNCTION intake.archive(pool_id text, msg_ids bigint[], outcomes text[], remark jsonb DEFAULT '{}')
RETURNS bigint[]
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ended     bigint[];
    slot_nos  bigint[];
    claim_ids uuid[];
    endings   text[];
BEGIN
    WITH gone AS (
        DELETE FROM pgmq.q_intake_queue q USING unnest(archive.msg_ids, archive.outcomes) AS o (msg_id, outcome)
        WHERE q.msg_id = o.msg_id AND q.msg_id = ANY (archive.msg_ids)
        RETURNING q.*, o.outcome),
    archived AS (
        INSERT INTO pgmq.a_intake_queue (msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers)
        SELECT g.msg_id, g.read_ct, g.enqueued_at, g.last_read_at, g.vt,
            g.message || archive.remark || jsonb_build_object('outcome', g.outcome), g.headers
        FROM gone g),
    unlisted AS (
        DELETE FROM intake.releases r USING gone g WHERE r.msg_id = g.msg_id AND g.message ? 'release'),
    rejoined AS (
        DELETE FROM intake.quarantine l USING gone g WHERE l.msg_id = g.msg_id AND g.headers ? 'alone')
    SELECT array_agg(g.msg_id), array_agg((g.message ->> 'slot_no')::bigint), array_agg((g.message ->> 'claim_id')::uuid),
        array_agg(g.outcome)
    INTO ended, slot_nos, claim_ids, endings FROM gone g;
    PERFORM intake.settle_slots(archive.pool_id, slot_nos, claim_ids, endings);
    RETURN ended;
END $$;
COMMENT ON FUNCTION intake.archive IS 'End messages that the caller has locked, each with its outcome, and do to their slots what follows from it.';

CREATE FUNCTION intake.acknowledge(pool_id text, msg_ids bigint[], read_cts int[], outcomes text[]) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    held     bigint[];
    endings  text[];
BEGIN
    IF cardinality(acknowledge.outcomes) IS DISTINCT FROM cardinality(acknowledge.msg_ids)
            OR EXISTS (SELECT FROM unnest(acknowledge.outcomes) o WHERE (o IN ('committed', 'voided')) IS NOT TRUE) THEN
        RAISE EXCEPTION 'outcomes is parallel to msg_ids, each committed or voided' USING ERRCODE = 'IE002',
            HINT = 'duplicate counts as committed; conflict belongs into dead_letter().';
    END IF;
    -- Before the first snapshot: while seed() rebuilds the holds, this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    SELECT array_agg(l), array_agg(o.outcome) INTO held, endings
    FROM intake.leased(acknowledge.pool_id, acknowledge.msg_ids, acknowledge.read_cts) l
    JOIN unnest(acknowledge.msg_ids, acknowledge.outcomes) AS o (msg_id, outcome) ON o.msg_id = l;
    RETURN QUERY SELECT unnest(intake.archive(acknowledge.pool_id, held, endings));
END $$;
COMMENT ON FUNCTION intake.acknowledge IS 'The ledger has spoken: archive with the outcome, and consume or free the slot, in one transaction.';

CREATE FUNCTION intake.bury(msg_ids bigint[], reasons text[]) RETURNS SETOF bigint
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM pgmq.q_intake_queue q USING unnest(bury.msg_ids, bury.reasons) AS r (msg_id, reason)
        WHERE q.msg_id = r.msg_id AND q.msg_id = ANY (bury.msg_ids)
        RETURNING q.*, r.reason),
    unlisted AS (
        DELETE FROM intake.releases r USING gone g WHERE r.msg_id = g.msg_id),
    rejoined AS (
        DELETE FROM intake.quarantine l USING gone g WHERE l.msg_id = g.msg_id),
    buried AS (
        INSERT INTO pgmq.q_intake_dlq (vt, message, headers)
        SELECT clock_timestamp(), g.message || jsonb_build_object('reason', left(g.reason, 2000),
            'dead_at', clock_timestamp(), 'queued_as', g.msg_id), g.headers
        FROM gone g ORDER BY g.msg_id)
    SELECT g.msg_id FROM gone g;
$$;
COMMENT ON FUNCTION intake.bury IS 'Make dead letters of messages that the caller has locked, each with its reason.';

CREATE FUNCTION intake.dead_letter(pool_id text, msg_ids bigint[], read_cts int[], reasons text[]) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    why  text[];
BEGIN
    IF cardinality(dead_letter.reasons) IS DISTINCT FROM cardinality(dead_letter.msg_ids) THEN
        RAISE EXCEPTION 'reasons is parallel to msg_ids' USING ERRCODE = 'IE002', HINT = 'Say why, once for each message.';
    END IF;
    SELECT array_agg(l), array_agg(r.reason) INTO held, why
    FROM intake.leased(dead_letter.pool_id, dead_letter.msg_ids, dead_letter.read_cts) l
    JOIN unnest(dead_letter.msg_ids, dead_letter.reasons) AS r (msg_id, reason) ON r.msg_id = l;
    RETURN QUERY SELECT * FROM intake.bury(held, why);
END $$;
COMMENT ON FUNCTION intake.dead_letter IS 'Give a message up. The claim keeps its slot until it is replayed or discarded.';

CREATE FUNCTION intake.read_quarantined(pool_id text, worker text) RETURNS SETOF intake.leased_message
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    config intake.engine_config := intake.reader(read_quarantined.pool_id, read_quarantined.worker, 1);
    at     timestamptz := clock_timestamp();
    loner  record;
BEGIN
    IF config.paused THEN
        RETURN;
    END IF;
    LOOP
        SELECT q.msg_id, intake.never_ended(q.headers), q.message ? 'release' AS release, q.message ->> 'state' AS state
        INTO loner FROM intake.quarantine l JOIN pgmq.q_intake_queue q USING (msg_id)
        WHERE l.pool_no = config.pool_no AND q.vt <= at
        ORDER BY l.msg_id LIMIT 1
        FOR UPDATE OF q SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        IF loner.never_ended THEN
            PERFORM intake.bury(ARRAY[loner.msg_id], ARRAY['it was read 3 times alone, and no bridge lived to the end of '
                'it; before that 3 times with others. See in the logs of the bridges what ends them, mend it, then replay'
                || CASE loner.state WHEN 'committing' THEN '. It may be committed: the target knows' ELSE '' END]);
        ELSE
            RETURN QUERY SELECT * FROM intake.lease(config, read_quarantined.worker, ARRAY[loner.msg_id],
                config.validation IS NULL AND NOT loner.release, loner.release);
            EXIT;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION intake.read_quarantined IS 'Lease one message that was set apart, to be sold or voided (`release`), for a worker with nothing else in hand. One that had no end alone, either, becomes a dead letter.';

CREATE FUNCTION intake.dead_letters(pool_id text, max_letters int DEFAULT 100, after bigint DEFAULT 0,
    msg_ids bigint[] DEFAULT NULL)
RETURNS TABLE (msg_id bigint, claim_id uuid, user_id text, slot_no bigint, label text, resource_id uuid, request_id text,
    state text, failures int, reason text, last_error text, dead_at timestamptz, claimed_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake.config_of(dead_letters.pool_id);
BEGIN
    RETURN QUERY
    SELECT d.msg_id, (d.message ->> 'claim_id')::uuid, d.message ->> 'user_id', (d.message ->> 'slot_no')::bigint, v.label,
        (d.message ->> 'resource_id')::uuid, d.message ->> 'request_id', d.message ->> 'state',
        (d.message ->> 'failures')::int, d.message ->> 'reason', d.message ->> 'last_error',
        (d.message ->> 'dead_at')::timestamptz, (d.message ->> 'claimed_at')::timestamptz
    FROM pgmq.q_intake_dlq d
    LEFT JOIN intake.inventory v ON v.pool_no = config.pool_no AND v.slot_no = (d.message ->> 'slot_no')::bigint
    WHERE d.message ->> 'pool_id' = dead_letters.pool_id AND d.msg_id > dead_letters.after
        AND (dead_letters.msg_ids IS NULL OR d.msg_id = ANY (dead_letters.msg_ids))
    ORDER BY d.msg_id LIMIT dead_letters.max_letters;
END $$;
COMMENT ON FUNCTION intake.dead_letters IS 'The dead letters, oldest first: those behind the id `after`, or those with these ids. `label` is NULL where the slots have none. Looking changes nothing.';

CREATE FUNCTION intake.audited(pool_id text, action text, actor text, reason text, detail jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(audited.actor, '') = '' OR coalesce(audited.reason, '') = '' THEN
        RAISE EXCEPTION '% needs an actor and a reason', audited.action USING ERRCODE = 'IE002',
            HINT = 'Both go to intake.audit.';
    END IF;
    PERFORM intake.config_of(audited.pool_id);
    INSERT INTO intake.audit (pool_id, action, actor, reason, detail)
    VALUES (audited.pool_id, audited.action, audited.actor, audited.reason, audited.detail);
END $$;
COMMENT ON FUNCTION intake.audited IS 'Refuse an action without actor and reason, record one that has both.';

CREATE FUNCTION intake.replay(pool_id text, msg_ids bigint[], actor text, reason text) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    moved bigint[];
BEGIN
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    WITH raised AS MATERIALIZED (
        DELETE FROM pgmq.q_intake_dlq d
        WHERE d.msg_id = ANY (replay.msg_ids) AND d.message ->> 'pool_id' = replay.pool_id
        RETURNING d.msg_id, d.message, d.headers, nextval('pgmq.q_intake_queue_msg_id_seq') AS queue_id),
    queued AS (
        -- read_ct 1: bridges have had it in hand, it is never again one that release_claim() may end by itself.
        INSERT INTO pgmq.q_intake_queue (msg_id, vt, read_ct, message, headers) OVERRIDING SYSTEM VALUE
        SELECT r.queue_id, clock_timestamp(), 1, (r.message - ARRAY['reason', 'dead_at', 'queued_as']) || '{"failures": 0}',
            r.headers - ARRAY['worker', 'unended', 'alone']
        FROM raised r),
    listed AS (
        INSERT INTO intake.releases (msg_id, pool_no) SELECT r.queue_id, c.pool_no
        FROM raised r JOIN intake.engine_config c ON c.pool_id = replay.pool_id WHERE r.message ? 'release'),
    followed AS (
        UPDATE intake.claimed_slots h SET msg_id = r.queue_id FROM raised r JOIN intake.engine_config c ON c.pool_id = replay.pool_id
        WHERE h.pool_no = c.pool_no AND h.slot_no = (r.message ->> 'slot_no')::bigint
            AND h.claim_id = (r.message ->> 'claim_id')::uuid)
    SELECT coalesce(array_agg(r.msg_id ORDER BY r.msg_id), '{}') INTO moved FROM raised r;
    PERFORM intake.audited(replay.pool_id, 'replay', replay.actor, replay.reason,
        jsonb_build_object('asked', replay.msg_ids, 'moved', moved));
    RETURN QUERY SELECT unnest(moved);
END $$;
COMMENT ON FUNCTION intake.replay IS 'Put dead letters back on the queue, state kept, failures 0. Returns those that were there; a second call finds none.';

CREATE FUNCTION intake.discard(pool_id text, msg_ids bigint[], actor text, reason text,
    evidence text DEFAULT 'none was given') RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    ended     bigint[];
    slot_nos  bigint[];
    claim_ids uuid[];
BEGIN
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    WITH gone AS (
        DELETE FROM pgmq.q_intake_dlq d
        WHERE d.msg_id = ANY (discard.msg_ids) AND d.message ->> 'pool_id' = discard.pool_id
        RETURNING d.*),
    archived AS (
        INSERT INTO pgmq.a_intake_dlq (msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers)
        SELECT g.msg_id, g.read_ct, g.enqueued_at, g.last_read_at, g.vt, g.message || '{"outcome": "voided"}', g.headers
        FROM gone g)
    SELECT coalesce(array_agg(g.msg_id ORDER BY g.msg_id), '{}'),
        coalesce(array_agg((g.message ->> 'slot_no')::bigint ORDER BY g.msg_id), '{}'),
        coalesce(array_agg((g.message ->> 'claim_id')::uuid ORDER BY g.msg_id), '{}')
    INTO ended, slot_nos, claim_ids FROM gone g;
    PERFORM intake.settle_slots(discard.pool_id, slot_nos, claim_ids,
        array_fill('voided'::text, ARRAY[cardinality(ended)]));
    PERFORM intake.audited(discard.pool_id, 'discard', discard.actor, discard.reason,
        jsonb_build_object('asked', discard.msg_ids, 'discarded', ended, 'evidence', discard.evidence));
    RETURN QUERY SELECT unnest(ended);
END $$;
COMMENT ON FUNCTION intake.discard IS 'Dead letters that will never be committed, and by what evidence (such as: void_claim answered voided): archive as voided, free the slot. It asks nobody.';

GRANT EXECUTE ON FUNCTION intake.read_batch, intake.read_releases, intake.read_quarantined, intake.mark_validated, intake.mark_committing,
    intake.extend, intake.give_back, intake.acknowledge, intake.dead_letter, intake.replay, intake.discard TO bridge;
GRANT EXECUTE ON FUNCTION intake.dead_letters TO bridge, monitor;
