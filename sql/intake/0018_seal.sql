-- How claiming is ended for good, and the table lock that this needs.
--
-- For the operator: seal.
--
-- A session that waits for ACCESS EXCLUSIVE makes all later sessions wait behind it. So lock_exclusively() waits in
-- short attempts with pauses, and after a while ends sessions of claimers that keep the table locked: the time limits
-- of their role are only defaults that a session may lift.

CREATE FUNCTION intake_private.lock_exclusively(what regclass, claimers interval DEFAULT '5 s',
    others interval DEFAULT '60 s')
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- One attempt takes 100 ms. Deadlocks are detected within it, and an autovacuum in the way is cancelled.
SET lock_timeout = '100ms' SET deadlock_timeout = '50ms' AS $$
DECLARE
    begun     CONSTANT timestamptz := clock_timestamp();
    ended     jsonb := '[]';
    waited    interval;
    session   record;
    any_ended boolean;
BEGIN
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', what);
            RETURN ended;
        EXCEPTION WHEN lock_not_available THEN
            waited := clock_timestamp() - begun;
        END;
        any_ended := false;
        FOR session IN SELECT s.* FROM intake_private.sessions_locking(what) s LOOP
            IF session.prepared THEN
                RAISE EXCEPTION '% is locked by a prepared transaction of role %', what, session.role
                    USING ERRCODE = 'IE008',
                    HINT = format('No session will end it. SELECT gid FROM pg_prepared_xacts '
                        'WHERE transaction = ''%s'', then ROLLBACK PREPARED with that gid.', session.transaction);
            END IF;
            -- The longer the wait, the younger the sessions that are ended: first those that were there all the time,
            -- in the end all. Otherwise claims that follow each other closely could block it together.
            IF session.claimer AND waited >= claimers AND coalesce(session.age >= 2 * claimers - waited, true) THEN
                any_ended := pg_terminate_backend(session.pid) OR any_ended;
                IF NOT ended @> jsonb_build_array(jsonb_build_object('pid', session.pid)) THEN
                    RAISE LOG 'ended session % of role %: it kept % locked', session.pid, session.role, what;
                    ended := ended || jsonb_build_object('role', session.role, 'pid', session.pid,
                        'seconds', round(extract(epoch FROM session.age), 1));
                END IF;
            END IF;
        END LOOP;
        IF waited >= others THEN
            RAISE EXCEPTION '% is locked by other sessions: %', what, coalesce((SELECT string_agg(format(
                    'role %s, pid %s, %s for %s s', s.role, s.pid, s.state, round(extract(epoch FROM s.age))), '; ')
                    FROM intake_private.sessions_locking(what) s), 'they come and go') USING ERRCODE = 'IE008',
                HINT = 'Claims and reads go on meanwhile. Let those sessions end, or end them with '
                    'pg_terminate_backend(pid), and call again.';
        END IF;
        IF NOT any_ended THEN -- let the sessions run that waited behind us
            PERFORM pg_sleep(0.1);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION intake_private.lock_exclusively IS
    'Lock a table in ACCESS EXCLUSIVE mode until the transaction ends, in attempts of 100 ms, so that no session waits '
    'behind it for longer. Ends sessions of claimers that keep it locked for longer than `claimers`, and returns them '
    'as a JSON array of {role, pid, seconds}. Raises IE008 if other sessions keep it locked for longer than `others`, '
    'or a prepared transaction does.';

CREATE FUNCTION intake_private.sessions_locking(what regclass)
RETURNS TABLE (pid int, role name, claimer boolean, state text, age interval, prepared boolean, transaction text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A transaction keeps the first snapshot of pg_stat_activity that it read.
    PERFORM pg_stat_clear_snapshot();
    RETURN QUERY
    SELECT DISTINCT l.pid, coalesce(a.usename, x.owner, a.backend_type::name),
        -- Members of claimer too, which have its rights. Superusers are members of every role and are no claimers.
        coalesce(NOT r.rolsuper AND pg_has_role(r.oid, 'claimer', 'MEMBER'), false),
        coalesce(a.state, 'active'), clock_timestamp() - coalesce(a.xact_start, x.prepared), l.pid IS NULL,
            x.transaction::text
    FROM pg_locks l
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_authid r ON r.oid = a.usesysid
    -- A prepared transaction has no process. It is found by the lock that every transaction has on its own id.
    LEFT JOIN pg_locks s ON l.pid IS NULL AND s.pid IS NULL AND s.virtualtransaction = l.virtualtransaction
        AND s.locktype = 'transactionid'
    LEFT JOIN pg_prepared_xacts x ON x.transaction = s.transactionid
    WHERE l.locktype = 'relation' AND l.relation = what AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END $$;
COMMENT ON FUNCTION intake_private.sessions_locking IS
    'The other sessions and prepared transactions that have a lock on a table: role, process and age, nothing of what '
    'they do.';

CREATE FUNCTION intake.seal(pool_id text, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed int;
    ended   jsonb;
BEGIN
    IF coalesce(seal.reason, '') = '' THEN
        RAISE EXCEPTION 'seal needs a reason'
            USING ERRCODE = 'IE002', HINT = 'It is recorded in intake.audit and in engine_config.';
    END IF;
    PERFORM intake_private.config_of(seal.pool_id);
    UPDATE intake.engine_config c SET sealed_at = clock_timestamp(), seal_reason = seal.reason,
        generation = c.generation + 1
    WHERE c.pool_id = seal.pool_id AND c.sealed_at IS NULL;
    GET DIAGNOSTICS changed = ROW_COUNT;
    -- The barrier. Every claim has an ACCESS SHARE lock on intake.pools from its first read until its end. So this
    -- waits for all running claims, and claims that come later wait for our commit and then read `sealed`.
    ended := intake_private.lock_exclusively('intake.pools');
    UPDATE intake.pools p SET sealed = true WHERE p.pool_id = seal.pool_id AND NOT p.sealed;
    IF changed > 0 THEN
        INSERT INTO intake.audit (pool_id, action, actor, reason, detail)
        VALUES (seal.pool_id, 'seal', session_user, seal.reason,
            CASE ended WHEN '[]' THEN '{}' ELSE jsonb_build_object('ended', ended) END);
    END IF;
END $$;
COMMENT ON FUNCTION intake.seal IS
    'Close a pool for good. When it returns no claim is running and none will ever succeed. Safe to repeat; the first '
    'reason stays. Raises IE001 for an unknown pool, IE002 without a reason, IE008 if other sessions keep intake.pools '
    'locked for 60 s.';
