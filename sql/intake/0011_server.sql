-- What the roles may have of the server.
--
-- A crowd of claimers takes the connections that it may have, and never those that bridges, monitor and operator need. A
-- limit of the role is the rule: it acts at once, without a restart, and the operator derives it from the server's own
-- max_connections. It does not see another role that somebody has made a member of claimer: for that the server keeps
-- some connections back (reserved_connections) for those who are named here.
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
COMMENT ON FUNCTION intake.connections IS 'How many connections the server has, keeps for superusers and for bridge and monitor, and lets claimers have (-1: any number); how many claimers have, and how many are taken in all.';

CREATE FUNCTION intake.limit_claimers(most int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s' AS $$
BEGIN
    -- A role may change its own password, and keep its row in a transaction that it does not end.
    PERFORM intake.let_go('pg_authid', false);
    LOCK TABLE pg_authid IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('ALTER ROLE claimer CONNECTION LIMIT %s', limit_claimers.most);
END $$;
COMMENT ON FUNCTION intake.limit_claimers IS 'How many connections claimers may have. Those that are open stay.';
