-- Which share of the connections of the server each role may have.
--
-- For the operator: connections, limit_claimers.
--
-- Claimers may use a limited number of connections, and never those that bridges, monitor and operator need. The limit
-- of the role is the rule: it takes effect at once, without a restart, and the operator derives it from
-- max_connections. It does not cover another role that was made a member of claimer. For that case the server keeps
-- some connections back (reserved_connections) for the roles named here.

GRANT pg_use_reserved_connections TO bridge, monitor;

CREATE FUNCTION intake.connections()
RETURNS TABLE (most int, superusers int, reserved int, claimer_limit int, claimers int, taken int)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,
        current_setting('reserved_connections')::int,
        (SELECT r.rolconnlimit FROM pg_authid r WHERE r.rolname = 'claimer'),
        count(*) FILTER (WHERE a.usename = 'claimer')::int, count(*)::int
    FROM pg_stat_activity a WHERE a.backend_type = 'client backend'
$$;
COMMENT ON FUNCTION intake.connections IS
    'Connections of the server: how many it has (most), keeps for superusers and for bridge and monitor (reserved), '
    'and lets claimers have (claimer_limit; -1 = any number); how many claimers have, and how many are taken in all.';

CREATE FUNCTION intake.limit_claimers(most int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s' AS $$
BEGIN
    -- A role may change its own password and keep the row of pg_authid locked in an open transaction.
    PERFORM intake_private.end_sessions_locking('pg_authid', false);
    LOCK TABLE pg_authid IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('ALTER ROLE claimer CONNECTION LIMIT %s', limit_claimers.most);
END $$;
COMMENT ON FUNCTION intake.limit_claimers IS
    'Set how many connections claimers may have. Open connections stay. Raises 55P03 if pg_authid cannot be locked '
    'within 5 s.';
