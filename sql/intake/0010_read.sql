-- How a bridge leases messages.
--
-- For bridge: read_batch, read_releases, read_quarantined.
--
-- The lease is (msg_id, read_ct): pgmq has no receipt handle, but read_ct grows with every read. Every change of a
-- message carries both and affects only rows where both still match, so a worker that lost its lease changes nothing,
-- and learns it from what is returned. Giving back ends a lease too: the headers name the worker as long as it lasts.
-- Rows are locked in msg_id order or skipped, so two calls never deadlock.
--
-- A message that still names a worker when it is read again had a delivery that was not finished: its bridge died or
-- hung. After three of them in a row it is quarantined and read alone, so that it cannot stop the messages read with
-- it, and only its own deliveries count. After three more it is a dead letter.
--
-- All functions that bridges call use indexes, whatever the statistics say (enable_seqscan is off): the planner
-- underestimates how many messages match, and would read the whole queue for a batch of some hundreds.

CREATE TABLE intake.releases (
    msg_id  bigint PRIMARY KEY,
    pool_no int    NOT NULL
);
COMMENT ON TABLE intake.releases IS
    'Messages whose claim the ledger has to void: released after a bridge had read them, or past the claim timeout.';

CREATE TABLE intake.quarantine (
    msg_id  bigint PRIMARY KEY,
    pool_no int    NOT NULL
);
COMMENT ON TABLE intake.quarantine IS
    'Messages that are read alone, because three deliveries in a row were not finished. Their headers contain '
    '`quarantined`.';

CREATE TYPE intake.leased_message AS (msg_id bigint, read_ct int, claim_id uuid, user_id text, request_id text,
    claimed_at timestamptz, seats jsonb, payload jsonb, validation jsonb, state text, failures int,
    enqueued_at timestamptz, headers jsonb, release boolean);
COMMENT ON TYPE intake.leased_message IS
    'A message as a bridge leases it. (msg_id, read_ct) is the lease. seats is a JSON array of objects with slot_no, '
    'resource_id and, where the slot has them, label and attributes. release: the ledger has to void the claim, not '
    'commit it.';

CREATE FUNCTION intake_private.lease_messages(config intake.engine_config, worker text, msg_ids bigint[],
    approved boolean, release boolean)
RETURNS SETOF intake.leased_message
LANGUAGE sql AS $$
    WITH leased AS (
        UPDATE pgmq.q_intake_queue q SET read_ct = q.read_ct + 1, last_read_at = clock_timestamp(),
            vt = clock_timestamp() + make_interval(secs => config.visibility_timeout_seconds),
            headers = CASE WHEN q.headers ? 'worker'
                THEN q.headers || jsonb_build_object('worker', lease_messages.worker, 'unfinished',
                    coalesce((q.headers ->> 'unfinished')::int, 0) + 1)
                ELSE coalesce(q.headers, '{}') || jsonb_build_object('worker', lease_messages.worker) END,
            message = CASE WHEN lease_messages.approved AND q.message ->> 'state' = 'queued'
                THEN q.message || '{"state": "validated"}' ELSE q.message END
        WHERE q.msg_id = ANY (lease_messages.msg_ids)
        RETURNING q.*)
    SELECT l.msg_id, l.read_ct, (l.message ->> 'claim_id')::uuid, l.message ->> 'user_id', l.message ->> 'request_id',
        (l.message ->> 'claimed_at')::timestamptz, l.message -> 'seats', nullif(l.message -> 'payload', 'null'),
        nullif(l.message -> 'validation', 'null'), l.message ->> 'state', (l.message ->> 'failures')::int,
        l.enqueued_at, l.headers, lease_messages.release
    FROM leased l ORDER BY l.msg_id;
$$;
COMMENT ON FUNCTION intake_private.lease_messages IS
    'Lease messages that the caller has locked, for the visibility timeout of the pool. approved: mark them validated '
    'in the same write. release: what the rows say in that column.';

CREATE FUNCTION intake_private.unfinished_three_times(headers jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    -- Two counted ones, and the one of the worker that the headers still name.
    SELECT headers ? 'worker' AND coalesce((headers ->> 'unfinished')::int, 0) >= 2;
$$;
COMMENT ON FUNCTION intake_private.unfinished_three_times IS
    'Whether three deliveries in a row were not finished, judged by the headers of a message that is about to be read '
    'again.';

CREATE FUNCTION intake_private.quarantine_messages(pool_no int, msg_ids bigint[]) RETURNS void
LANGUAGE sql AS $$
    -- Deliveries are counted from 0 again. Without a worker in its headers, the lease that it may still have is
    -- invalid.
    WITH updated AS (
        UPDATE pgmq.q_intake_queue q SET headers = q.headers - 'worker' || '{"quarantined": true, "unfinished": 0}'
        WHERE q.msg_id = ANY (quarantine_messages.msg_ids)
        RETURNING q.msg_id)
    INSERT INTO intake.quarantine (msg_id, pool_no) SELECT u.msg_id, quarantine_messages.pool_no FROM updated u;
$$;
COMMENT ON FUNCTION intake_private.quarantine_messages IS
    'From now on these messages, which the caller has locked, are read alone.';

CREATE FUNCTION intake_private.reader_config(pool_id text, worker text, max_messages int) RETURNS intake.engine_config
LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(reader_config.max_messages, 0) NOT BETWEEN 1 AND 10000 OR coalesce(reader_config.worker, '') = '' THEN
        RAISE EXCEPTION 'reading needs a worker and 1 to 10000 messages' USING ERRCODE = 'IE002',
            HINT = 'The name of the worker is written to the headers of what it reads.';
    END IF;
    -- What is read is sent to the ledger: a claim that has not reached the standby yet must wait for it here.
    PERFORM intake_private.require_durable_commit();
    RETURN intake_private.config_of(reader_config.pool_id);
END $$;
COMMENT ON FUNCTION intake_private.reader_config IS
    'The configuration of a pool for a read. Raises IE001 for an unknown pool, IE002 without a worker, for a bad '
    'limit, or where synchronous_commit is off.';

CREATE FUNCTION intake.read_batch(pool_id text, worker text, max_messages int) RETURNS SETOF intake.leased_message
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- In the order of the index on vt, whatever the statistics say of a queue that is empty in one minute and a million
-- deep in the next: any other plan reads all of it.
SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    config        intake.engine_config :=
        intake_private.reader_config(read_batch.pool_id, read_batch.worker, read_batch.max_messages);
    at            timestamptz := clock_timestamp();
    due           bigint[];
    to_quarantine bigint[];
BEGIN
    IF config.paused THEN
        RETURN;
    END IF;
    -- Ordered by the time when they fell due: leased and delayed messages are later in the index and never visited.
    -- No position is remembered, so a message that commits later than its neighbours, with an old vt, is simply the
    -- first.
    SELECT array_agg(d.msg_id), array_agg(d.msg_id) FILTER (WHERE d.suspect) INTO due, to_quarantine FROM (
        SELECT q.msg_id, intake_private.unfinished_three_times(q.headers) AS suspect FROM pgmq.q_intake_queue q
        WHERE q.vt <= at AND q.message ->> 'pool_id' = read_batch.pool_id AND NOT q.message ? 'release'
            AND (q.headers ? 'quarantined') IS NOT TRUE
        ORDER BY q.vt LIMIT read_batch.max_messages
        FOR UPDATE SKIP LOCKED) d;
    IF to_quarantine IS NOT NULL THEN
        PERFORM intake_private.quarantine_messages(config.pool_no, to_quarantine);
        due := ARRAY(SELECT unnest(due) EXCEPT SELECT unnest(to_quarantine));
    END IF;
    -- Without a validator the mark is written with the lease, which saves one more update of each message.
    RETURN QUERY SELECT *
    FROM intake_private.lease_messages(config, read_batch.worker, due, config.validation IS NULL, false);
END $$;
COMMENT ON FUNCTION intake.read_batch IS
    'Lease up to max_messages (1 to 10000) due messages for the visibility timeout of the pool, those that fell due '
    'first. Returns nothing while the pool is paused. Raises IE001 for an unknown pool, IE002 for a bad argument or '
    'where synchronous_commit is off.';

CREATE FUNCTION intake.read_releases(pool_id text, worker text, max_messages int) RETURNS SETOF intake.leased_message
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config        intake.engine_config :=
        intake_private.reader_config(read_releases.pool_id, read_releases.worker, read_releases.max_messages);
    at            timestamptz := clock_timestamp();
    due           bigint[];
    to_quarantine bigint[];
BEGIN
    IF config.paused THEN
        RETURN;
    END IF;
    SELECT array_agg(d.msg_id), array_agg(d.msg_id) FILTER (WHERE d.suspect) INTO due, to_quarantine FROM (
        SELECT q.msg_id, intake_private.unfinished_three_times(q.headers) AS suspect FROM intake.releases r
        JOIN pgmq.q_intake_queue q USING (msg_id)
        WHERE r.pool_no = config.pool_no AND q.vt <= at AND (q.headers ? 'quarantined') IS NOT TRUE
        ORDER BY q.msg_id LIMIT read_releases.max_messages
        FOR UPDATE OF q SKIP LOCKED) d;
    IF to_quarantine IS NOT NULL THEN
        PERFORM intake_private.quarantine_messages(config.pool_no, to_quarantine);
        due := ARRAY(SELECT unnest(due) EXCEPT SELECT unnest(to_quarantine));
    END IF;
    RETURN QUERY SELECT * FROM intake_private.lease_messages(config, read_releases.worker, due, false, true);
END $$;
COMMENT ON FUNCTION intake.read_releases IS
    'Lease up to max_messages messages whose claims the ledger has to void, in the order of msg_id. Otherwise as '
    'read_batch().';

CREATE FUNCTION intake.read_quarantined(pool_id text, worker text) RETURNS SETOF intake.leased_message
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    config    intake.engine_config := intake_private.reader_config(read_quarantined.pool_id,
        read_quarantined.worker, 1);
    at        timestamptz := clock_timestamp();
    candidate record;
BEGIN
    IF config.paused THEN
        RETURN;
    END IF;
    LOOP
        SELECT q.msg_id, intake_private.unfinished_three_times(q.headers) AS suspect, q.message ? 'release' AS release,
            q.message ->> 'state' AS state
        INTO candidate FROM intake.quarantine l JOIN pgmq.q_intake_queue q USING (msg_id)
        WHERE l.pool_no = config.pool_no AND q.vt <= at
        ORDER BY l.msg_id LIMIT 1
        FOR UPDATE OF q SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        IF candidate.suspect THEN
            PERFORM intake_private.move_to_dead_letters(ARRAY[candidate.msg_id], ARRAY[
                'it was read alone 3 times, and each time its bridge stopped before the end; before that, 3 times in a '
                'batch. Find the cause in the logs of the bridges, fix it, then replay'
                || CASE candidate.state WHEN 'committing' THEN '. It may be committed: ask the ledger' ELSE '' END]);
        ELSE
            RETURN QUERY SELECT * FROM intake_private.lease_messages(config, read_quarantined.worker,
                ARRAY[candidate.msg_id], config.validation IS NULL AND NOT candidate.release, candidate.release);
            EXIT;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION intake.read_quarantined IS
    'Lease one quarantined message, for a worker that has no other message; `release` says whether the ledger has to '
    'void its claim. A message that was not finished three times here either becomes a dead letter instead. Returns at '
    'most one row, none while the pool is paused. Raises what read_batch() raises.';

CREATE FUNCTION intake_private.revoke_leases(pool_no int, msg_ids bigint[], reason text) RETURNS void
LANGUAGE sql AS $$
    -- read_ct is part of the lease: a worker that has one loses it here.
    WITH revoked AS (
        UPDATE pgmq.q_intake_queue q SET read_ct = q.read_ct + 1, vt = clock_timestamp(),
            headers = q.headers - 'worker', -- this ends the delivery
            message = q.message
                || jsonb_build_object('release',
                    jsonb_build_object('reason', revoke_leases.reason, 'at', clock_timestamp()))
        WHERE q.msg_id = ANY (revoke_leases.msg_ids)
        RETURNING q.msg_id)
    INSERT INTO intake.releases (msg_id, pool_no) SELECT r.msg_id, revoke_leases.pool_no FROM revoked r;
$$;
COMMENT ON FUNCTION intake_private.revoke_leases IS
    'Revoke the leases of messages that the caller has locked, and send their claims to be voided in the ledger, for '
    'this reason.';

CREATE FUNCTION intake_private.lock_leased(pool_id text, msg_ids bigint[], read_cts int[]) RETURNS SETOF bigint
LANGUAGE plpgsql ROWS 100 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
-- No nested loop over messages and leases, for the same reason: 500 of them took 200 ms with 3000 in flight.
SET enable_nestloop = off AS $$
#variable_conflict use_column
BEGIN
    IF lock_leased.msg_ids IS NULL
        OR cardinality(lock_leased.msg_ids) IS DISTINCT FROM cardinality(lock_leased.read_cts) THEN
        RAISE EXCEPTION 'msg_ids and read_cts are parallel arrays' USING ERRCODE = 'IE002',
            HINT = 'Give both as read_batch returned them.';
    END IF;
    PERFORM intake_private.require_durable_commit(); -- the caller acts on what is marked
    PERFORM intake_private.config_of(lock_leased.pool_id);
    RETURN QUERY
    SELECT q.msg_id FROM pgmq.q_intake_queue q
    JOIN unnest(lock_leased.msg_ids, lock_leased.read_cts) AS f (msg_id, read_ct) ON q.msg_id = f.msg_id
        AND q.read_ct = f.read_ct
    WHERE q.msg_id = ANY (lock_leased.msg_ids) AND q.message ->> 'pool_id' = lock_leased.pool_id
        AND q.headers ? 'worker'
    ORDER BY q.msg_id FOR UPDATE OF q;
END $$;
COMMENT ON FUNCTION intake_private.lock_leased IS
    'The fence: lock those of the messages whose lease (msg_id, read_ct) is still valid, and return their ids. Raises '
    'IE001 for an unknown pool, IE002 for arrays that are not parallel, or where synchronous_commit is off.';

GRANT EXECUTE ON FUNCTION intake.read_batch, intake.read_releases, intake.read_quarantined TO bridge;
