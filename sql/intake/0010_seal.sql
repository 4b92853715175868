-- A lock on a whole table that nobody can hold up for ever, and the seal, which needs one.
--
-- Whoever waits for ACCESS EXCLUSIVE makes everybody who comes later wait behind it. So it is waited for in short
-- attempts with pauses between them, and past a bound what claimers hold is ended: the time limits of their role are
-- only defaults, which each of their sessions may lift.

CREATE FUNCTION intake.lock_alone(what regclass, claimers interval DEFAULT '5 s', others interval DEFAULT '60 s')
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- An attempt. Deadlocks are looked for within it, and an autovacuum that is in the way gives up.
SET lock_timeout = '100ms' SET deadlock_timeout = '50ms' AS $$
DECLARE
    begun  CONSTANT timestamptz := clock_timestamp();
    ended  jsonb := '[]';
    waited interval;
    holder record;
    goes   boolean;
BEGIN
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', what);
            RETURN ended;
        EXCEPTION WHEN lock_not_available THEN
            waited := clock_timestamp() - begun;
        END;
        goes := false;
        FOR holder IN SELECT h.* FROM intake.holders_of(what) h LOOP
            IF holder.prepared THEN
                RAISE EXCEPTION '% is held by a prepared transaction of role %', what, holder.role USING ERRCODE = 'IE008',
                    HINT = format('No session will end it. SELECT gid FROM pg_prepared_xacts WHERE transaction = ''%s'', then ROLLBACK PREPARED with that gid.',
                        holder.transaction);
            END IF;
            -- The longer it takes, the younger are those that have to go: first whoever has been there all the time,
            -- in the end everybody. Else claims that follow each other closely could hold it up together.
            IF holder.claimer AND waited >= claimers AND coalesce(holder.age >= 2 * claimers - waited, true) THEN
                goes := pg_terminate_backend(holder.pid) OR goes;
                IF NOT ended @> jsonb_build_array(jsonb_build_object('pid', holder.pid)) THEN
                    RAISE LOG 'session % of role % is ended: it holds %', holder.pid, holder.role, what;
                    ended := ended || jsonb_build_object('role', holder.role, 'pid', holder.pid,
                        'seconds', round(extract(epoch FROM holder.age), 1));
                END IF;
            END IF;
        END LOOP;
        IF waited >= others THEN
            RAISE EXCEPTION '% is held by other sessions: %', what, coalesce((SELECT string_agg(format(
                    'role %s, pid %s, %s for %s s', h.role, h.pid, h.state, round(extract(epoch FROM h.age))), '; ')
                    FROM intake.holders_of(what) h), 'they come and go') USING ERRCODE = 'IE008',
                HINT = 'Claims and reads go on meanwhile. Let those sessions end, or end them with pg_terminate_backend(pid), and call again.';
        END IF;
        IF NOT goes THEN -- those that were behind us have their turn
            PERFORM pg_sleep(0.1);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION intake.lock_alone IS 'Lock a table against everybody until the transaction ends. Nobody waits behind it for longer than an attempt. Ends sessions of claimers that hold it for longer than `claimers`, and answers which; IE008 if others hold it for longer than `others`, or a prepared transaction does.';

CREATE FUNCTION intake.holders_of(what regclass)
RETURNS TABLE (pid int, role name, claimer boolean, state text, age interval, prepared boolean, transaction text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A transaction sees activity as it was at its first look.
    PERFORM pg_stat_clear_snapshot();
    RETURN QUERY
    SELECT DISTINCT l.pid, coalesce(a.usename, x.owner, a.backend_type::name),
        -- Its members too, who have its rights. Superusers are members of everything and no claimers.
        coalesce(NOT r.rolsuper AND pg_has_role(r.oid, 'claimer', 'MEMBER'), false),
        coalesce(a.state, 'active'), clock_timestamp() - coalesce(a.xact_start, x.prepared), l.pid IS NULL, x.transaction::text
    FROM pg_locks l
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_authid r ON r.oid = a.usesysid
    -- A prepared transaction has no process. It is known by the lock that each transaction has on itself.
    LEFT JOIN pg_locks s ON l.pid IS NULL AND s.pid IS NULL AND s.virtualtransaction = l.virtualtransaction
        AND s.locktype = 'transactionid'
    LEFT JOIN pg_prepared_xacts x ON x.transaction = s.transactionid
    WHERE l.locktype = 'relation' AND l.relation = what AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
END $$;
COMMENT ON FUNCTION intake.holders_of IS 'Who holds a lock on a table, apart from us: by role and process, nothing of what they do with it.';

CREATE FUNCTION intake.seal(pool_id text, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed int;
    ended   jsonb;
BEGIN
    IF coalesce(seal.reason, '') = '' THEN
        RAISE EXCEPTION 'seal needs a reason' USING ERRCODE = 'IE002', HINT = 'It is what people will read later.';
    END IF;
    PERFORM intake.config_of(seal.pool_id);
    UPDATE intake.engine_config c SET sealed_at = clock_timestamp(), seal_reason = seal.reason,
        generation = c.generation + 1
    WHERE c.pool_id = seal.pool_id AND c.sealed_at IS NULL;
    GET DIAGNOSTICS changed = ROW_COUNT;
    -- The barrier. Every claim holds ACCESS SHARE on the hot row's table from its first look until its end, so this
    -- waits for all that run, and those that come once it is ours wait for our commit and then read `sealed`.
    ended := intake.lock_alone('intake.pools');
    UPDATE intake.pools p SET sealed = true WHERE p.pool_id = seal.pool_id AND NOT p.sealed;
    IF changed > 0 THEN
        INSERT INTO intake.audit (pool_id, action, actor, reason, detail)
        VALUES (seal.pool_id, 'seal', session_user, seal.reason,
            CASE ended WHEN '[]' THEN '{}' ELSE jsonb_build_object('ended', ended) END);
    END IF;
END $$;
COMMENT ON FUNCTION intake.seal IS 'Close a pool for good. On return no claim is running and none will ever succeed.';
