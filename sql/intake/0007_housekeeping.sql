-- What has to happen now and then while a pool is on sale, in whichever bridge keeps house: a sale does not need the
-- operator to be alive, not even to get over a crash of DB1.

CREATE FUNCTION intake.expire_claims(config intake.engine_config) RETURNS bigint
LANGUAGE plpgsql AS $$
-- Time alone frees nothing: an old claim goes to the ledger, and its slot is free when the ledger has voided it. One
-- that a bridge has leased is left alone until the lease ends, one that may have been committed beyond recall for good.
DECLARE
    overdue bigint[];
BEGIN
    SELECT array_agg(o.msg_id) INTO overdue FROM (
        SELECT q.msg_id FROM pgmq.q_intake_queue q
        WHERE q.enqueued_at < clock_timestamp() - make_interval(secs => config.claim_timeout_seconds)
            -- In nobody's hands: its lease is over, or it was given back and waits for its next try. One that is always the
            -- first to be tried again would otherwise never be seen here.
            AND (q.vt <= clock_timestamp() OR q.headers ->> 'worker' IS NULL)
            AND q.message ->> 'pool_id' = config.pool_id AND q.message ->> 'state' <> 'committing' AND NOT q.message ? 'release'
        ORDER BY q.msg_id LIMIT 1000 -- a bridge's batch or so: each of them is a call to the ledger
        FOR UPDATE SKIP LOCKED) o;
    PERFORM intake.recall(config.pool_no, overdue, 'hold expired');
    RETURN coalesce(cardinality(overdue), 0);
END $$;
COMMENT ON FUNCTION intake.expire_claims IS 'Send claims older than claim_timeout_seconds to be voided. Returns how many.';

CREATE FUNCTION intake.end_overdue() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- The time limits of a claimer are only defaults, which each of its sessions may lift. One that keeps a transaction open
-- keeps its claims open, and with them all numbers that were drawn meanwhile (settle() waits for it), and whatever
-- VACUUM would take away. One that waits for an ACCESS EXCLUSIVE lock blocks everybody who comes later: DROP DATABASE
-- waits so before it is refused, and blocks all logins. Not the view pg_roles: it reads pg_db_role_setting, which such a
-- session may have locked.
DECLARE
    bound CONSTANT interval := '20 s'; -- transaction_timeout of the role has ended everybody else by then
BEGIN
    PERFORM pg_stat_clear_snapshot();
    RETURN (SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN pg_authid r ON r.oid = a.usesysid
        WHERE a.backend_type = 'client backend' AND NOT r.rolsuper AND pg_has_role(r.oid, 'claimer', 'MEMBER')
            AND (a.datname = current_database() AND a.xact_start < clock_timestamp() - bound
                OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted
                    AND l.mode = 'AccessExclusiveLock' AND l.locktype IN ('relation', 'object'))));
END $$;
COMMENT ON FUNCTION intake.end_overdue IS 'End the sessions of claimers whose transaction is older than they may be, or that wait for an ACCESS EXCLUSIVE lock. Returns how many.';

CREATE FUNCTION intake.housekeep(pool_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config;
    before bigint;
    after  bigint;
    back   bigint := 0;
    long_ago CONSTANT timestamptz := clock_timestamp() - interval '1 hour';
BEGIN
    PERFORM intake.end_overdue(); -- first: what follows may be blocked by such a session
    config := intake.config_of(housekeep.pool_id);
    -- epoch 0: not provisioned yet, which is the operator's to do. The tail comes and goes with the hot row. That is not
    -- looked at here: who waits in seed() with a lock on its table, and seal(), which needs all of it, would deadlock.
    IF config.epoch > 0 AND NOT EXISTS (SELECT FROM intake.tails t WHERE t.pool_no = config.pool_no) THEN
        PERFORM intake.seed(housekeep.pool_id);
    END IF;
    -- A call of settle() goes a bounded way; after a rebuild it has all the numbers before it.
    LOOP
        SELECT t.frontier INTO before FROM intake.tails t WHERE t.pool_no = config.pool_no;
        back := back + intake.settle(config.pool_no);
        SELECT t.frontier INTO after FROM intake.tails t WHERE t.pool_no = config.pool_no;
        EXIT WHEN after IS NOT DISTINCT FROM before;
    END LOOP;
    -- Whoever had one in hand when it was taken, and then gave up, has left it there.
    PERFORM intake.strike(config.pool_no, ARRAY(SELECT f.slot_no FROM intake.free_numbers f
        JOIN intake.claimed_slots h USING (pool_no, slot_no) WHERE f.pool_no = config.pool_no));
    IF config.claim_timeout_seconds IS NOT NULL AND NOT config.paused THEN
        PERFORM intake.expire_claims(config);
    END IF;
    DELETE FROM intake.workers w WHERE w.pool_no = config.pool_no AND w.seen_at < long_ago;
    -- Twelve times as long as engine_status() looks back. One goes for each that comes; a thousand, should there be many.
    DELETE FROM intake.engine_metrics m WHERE m.pool_id = housekeep.pool_id AND m.at IN (SELECT o.at
        FROM intake.engine_metrics o WHERE o.pool_id = housekeep.pool_id AND o.at < long_ago ORDER BY o.at LIMIT 1000);
    RETURN back;
END $$;
COMMENT ON FUNCTION intake.housekeep IS 'End claimers that keep a transaction open, rebuild after a crash, bring burnt numbers back, expire holds, forget workers and metrics of long ago. Returns the numbers that came back.';
GRANT EXECUTE ON FUNCTION intake.housekeep TO bridge;
