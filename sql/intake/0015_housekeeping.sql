-- What has to happen now and then while a pool is on sale. One bridge at a time does it, so a sale does not need the
-- operator, not even to recover from a crash of DB1.
--
-- For bridge: housekeep. For the operator: end_overdue.

CREATE FUNCTION intake_private.expire_claims(config intake.engine_config) RETURNS bigint
LANGUAGE plpgsql AS $$
-- The timeout alone frees no slot: an old claim is sent to the ledger, and its slots are free when the ledger has
-- voided it. A claim that a bridge has leased is left alone until the lease ends; one that may have been committed at
-- a ledger that cannot be fenced is never touched.
DECLARE
    overdue bigint[];
BEGIN
    SELECT array_agg(o.msg_id) INTO overdue FROM (
        SELECT q.msg_id FROM pgmq.q_intake_queue q
        WHERE q.enqueued_at < clock_timestamp() - make_interval(secs => config.claim_timeout_seconds)
            -- No bridge has it: its lease has run out, or it was given back and waits for its next attempt. Otherwise
            -- a message that is always read again at once would never be found here.
            AND (q.vt <= clock_timestamp() OR q.headers ->> 'worker' IS NULL)
            AND q.message ->> 'pool_id' = config.pool_id AND q.message ->> 'state' <> 'committing'
            AND NOT q.message ? 'release'
        ORDER BY q.msg_id LIMIT 1000 -- about one batch: each of them is a call to the ledger
        FOR UPDATE SKIP LOCKED) o;
    PERFORM intake_private.revoke_leases(config.pool_no, overdue, 'claim timeout');
    RETURN coalesce(cardinality(overdue), 0);
END $$;
COMMENT ON FUNCTION intake_private.expire_claims IS
    'Send up to 1000 claims that are older than claim_timeout_seconds to be voided in the ledger. Returns how many.';

CREATE FUNCTION intake.end_overdue() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- The time limits of a claimer are only defaults that its session may lift. A session that keeps a transaction open
-- keeps its claims open, and with them all numbers that were drawn meanwhile (recycle_numbers() waits for it) and all
-- dead rows that VACUUM would remove. A session that waits for an ACCESS EXCLUSIVE lock blocks all later ones: DROP
-- DATABASE waits for one before its right is checked, and blocks all logins. pg_authid, not the view pg_roles: the
-- view reads pg_db_role_setting, which such a session may have locked.
DECLARE
    bound CONSTANT interval := '20 s'; -- transaction_timeout of the role has ended all others by then
BEGIN
    PERFORM pg_stat_clear_snapshot();
    RETURN (SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN pg_authid r ON r.oid = a.usesysid
        WHERE a.backend_type = 'client backend' AND NOT r.rolsuper AND pg_has_role(r.oid, 'claimer', 'MEMBER')
            AND (a.datname = current_database() AND a.xact_start < clock_timestamp() - bound
                OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted
                    AND l.mode = 'AccessExclusiveLock' AND l.locktype IN ('relation', 'object'))));
END $$;
COMMENT ON FUNCTION intake.end_overdue IS
    'End the sessions of claimers whose transaction is older than 20 s, or that wait for an ACCESS EXCLUSIVE lock. '
    'Returns how many.';

CREATE FUNCTION intake.housekeep(pool_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config   intake.engine_config;
    before   bigint;
    after    bigint;
    recycled bigint := 0;
    long_ago CONSTANT timestamptz := clock_timestamp() - interval '1 hour';
BEGIN
    PERFORM intake.end_overdue(); -- first: such a session may block what follows
    config := intake_private.config_of(housekeep.pool_id);
    -- epoch 0: not provisioned yet, which only the operator does. number_progress has a row exactly when the hot row
    -- exists. The hot row itself is not read here: a session that waits in seed() with a lock on its table would
    -- deadlock with seal(), which needs all of it.
    IF config.epoch > 0 AND NOT EXISTS (SELECT FROM intake.number_progress t WHERE t.pool_no = config.pool_no) THEN
        PERFORM intake.seed(housekeep.pool_id);
    END IF;
    IF config.hold_seconds IS NOT NULL THEN -- also while the pool is paused: people may still confirm
        -- First, because recycle_numbers() reads this table. Whoever has all of it (stop_claims(), configure()) may wait
        -- for a slot that expire_holds() frees here, and would never get it.
        LOCK TABLE intake.pools IN ACCESS SHARE MODE;
        -- Before recycle_numbers(), because no claim can recycle numbers from then on until this transaction ends.
        PERFORM intake_private.expire_holds(config);
        PERFORM intake_private.forget_ended_holds(config);
    END IF;
    -- Each call of recycle_numbers() handles a limited number; after a rebuild all numbers are ahead of it.
    LOOP
        SELECT t.frontier INTO before FROM intake.number_progress t WHERE t.pool_no = config.pool_no;
        recycled := recycled + intake_private.recycle_numbers(config.pool_no);
        SELECT t.frontier INTO after FROM intake.number_progress t WHERE t.pool_no = config.pool_no;
        EXIT WHEN after IS NOT DISTINCT FROM before;
    END LOOP;
    -- A claim that had such a number locked when it was claimed by name, and was rolled back, has left it on the free
    -- list.
    PERFORM intake_private.drop_from_free_list(config.pool_no, ARRAY(SELECT f.slot_no FROM intake.free_numbers f
        JOIN intake.claimed_slots cs USING (pool_no, slot_no) WHERE f.pool_no = config.pool_no));
    IF config.claim_timeout_seconds IS NOT NULL AND NOT config.paused THEN
        PERFORM intake_private.expire_claims(config);
    END IF;
    DELETE FROM intake.workers w WHERE w.pool_no = config.pool_no AND w.seen_at < long_ago;
    -- An hour is twelve times as long as engine_status() looks back. Normally one row is deleted for each new one; at
    -- most a thousand in one call.
    DELETE FROM intake.engine_metrics m WHERE m.pool_id = housekeep.pool_id AND m.at IN (SELECT o.at
        FROM intake.engine_metrics o WHERE o.pool_id = housekeep.pool_id AND o.at < long_ago ORDER BY o.at LIMIT 1000);
    RETURN recycled;
END $$;
COMMENT ON FUNCTION intake.housekeep IS
    'End overdue claimers, rebuild the pool after a crash, end the holds that were not confirmed in time, recycle '
    'burnt numbers, void claims past the claim timeout, delete workers and metrics older than an hour. Returns how many '
    'numbers were recycled. Raises IE001 for an unknown pool, and what seed() raises.';
GRANT EXECUTE ON FUNCTION intake.housekeep TO bridge;
