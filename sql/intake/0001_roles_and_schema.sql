-- Who may do what: the roles, their settings, the schema, and nothing for anybody else.
--
-- The migrating superuser owns everything. Roles come without login and password; whoever runs the migrations adds
-- them. A role reaches DB1 only through functions (SECURITY DEFINER, with a pinned search_path) and a few views, each
-- granted where it is defined. Roles belong to the server, not to the database: hence "if not there yet".

DO $$
DECLARE
    wanted text;
    shut   name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['claimer', 'bridge', 'monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
    -- PostgreSQL lets everybody connect and create temporary tables unless told otherwise. So it does in the databases
    -- that initdb made (their ids are below 16384), where nothing of what follows here holds.
    FOR shut IN SELECT d.datname FROM pg_database d WHERE d.datname = current_database() OR d.oid < 16384 LOOP
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', shut);
    END LOOP;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO claimer, bridge, monitor', current_database());
END $$;

CREATE SCHEMA intake;
COMMENT ON SCHEMA intake IS 'intake-engine: slots, claims, and everything that happens to them. See sql/README.md.';

-- From here on, what we create is nobody's until it is granted. Functions are executable by PUBLIC unless revoked
-- for the whole database: a default per schema cannot take that away.
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC;

REVOKE ALL ON SCHEMA public, pgmq, intake FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pgmq FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgmq FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA pgmq FROM PUBLIC;
-- DO runs whatever it is given. Who calls a function needs no right to its language.
REVOKE ALL ON LANGUAGE plpgsql, sql FROM PUBLIC;
GRANT USAGE ON SCHEMA intake TO claimer, bridge, monitor;

-- What PostgreSQL lets everybody call. A function that is not VOLATILE changes nothing. Of the others PUBLIC keeps those
-- that clients call by themselves and that touch nothing but their own session; tests/sql/test_public_functions.py has
-- the reason for each. All the rest goes, whatever the next version of PostgreSQL adds to it: advisory locks (ours would
-- be within reach of a claimer, and no claim would get past them), large objects, exported snapshots and messages to
-- the WAL (they fill the disk), signals to other sessions of the same role, pg_locks (which stops all locking while it
-- is read). Our own functions run as their owner, whom this does not touch.
DO $$
DECLARE
    kept CONSTANT name[] := ARRAY['array_sample', 'array_shuffle', 'clock_timestamp', 'current_query', 'gen_random_uuid',
        'pg_advisory_unlock_all', 'pg_is_in_recovery', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until', 'pg_xact_status',
        'random', 'random_normal', 'set_config', 'setseed', 'timeofday', 'txid_status', 'uuidv4', 'uuidv7'];
    -- These change nothing, and tell what other sessions are doing, with the users' ids in it.
    told CONSTANT name[] := ARRAY['pg_stat_get_activity', 'pg_stat_get_backend_activity'];
BEGIN
    EXECUTE (SELECT format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', string_agg(p.oid::regprocedure::text, ', '))
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND (p.provolatile = 'v' AND p.proname <> ALL (kept) OR p.proname = ANY (told)));
    -- Whoever looks after the server sees what it does, as before.
    EXECUTE (SELECT format('GRANT EXECUTE ON ROUTINE %s TO pg_monitor', string_agg(p.oid::regprocedure::text, ', '))
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND p.proname ~ '^pg_(stat_get_.*|lock_status|blocking_pids|.*_size|current_wal_.*lsn)$');
END $$;
-- One bridge at a time keeps house.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) TO bridge;

-- A definition waits for its lock before anybody asks for the right to it: CREATE RULE for ACCESS EXCLUSIVE, CREATE TRIGGER
-- for nearly as much. Whoever comes after a claimer that waits so, waits behind it. This asks first.
CREATE FUNCTION intake.refuse_definitions() RETURNS event_trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_catalog.has_schema_privilege(current_user, 'intake', 'CREATE') THEN
        RAISE EXCEPTION 'role % defines nothing in DB1', current_user USING ERRCODE = 'insufficient_privilege',
            HINT = 'Claimers, bridges and monitors call functions of the schema intake; see sql/README.md.';
    END IF;
END $$;
COMMENT ON FUNCTION intake.refuse_definitions IS 'Only the owner of our schema defines anything in this database.';
CREATE EVENT TRIGGER intake_definitions ON ddl_command_start EXECUTE FUNCTION intake.refuse_definitions();

CREATE FUNCTION intake.role_settings() RETURNS TABLE (role_name name, settings text[])
LANGUAGE sql STABLE AS $$
    VALUES
    -- No user id gets into the log. The settings of the server keep statements, parameters and rows out of it, but not
    -- the message itself, which quotes what cannot be read: `invalid input syntax for type uuid: "ann"`, `syntax error at
    -- or near "ann"`. So nothing that a role provokes is logged, short of the end of its session; who sent it is told. No
    -- role writes there (RAISE LOG), or turns this back: it is a superuser's to set.
    --
    -- A claim is a matter of milliseconds. A claimer that keeps one open holds up seal(), so the server ends it. No call
    -- of a claimer needs a temporary file: a batch of 1000 whose ids are as long as they may be takes less than work_mem.
    ('claimer'::name, ARRAY['idle_in_transaction_session_timeout=5s', 'log_min_messages=fatal', 'temp_file_limit=1MB',
        'transaction_timeout=15s', 'work_mem=4MB']),
    ('bridge', ARRAY['log_min_messages=fatal']),
    -- Whoever looks holds it up, too; but a look at a million claims may take minutes.
    ('monitor', ARRAY['idle_in_transaction_session_timeout=5s', 'log_min_messages=fatal']);
$$;
COMMENT ON FUNCTION intake.role_settings IS 'Our roles and the settings that each of them has, and no others.';

CREATE FUNCTION intake.altered_roles() RETURNS SETOF name
LANGUAGE sql STABLE AS $$
    SELECT w.role_name FROM intake.role_settings() w
    WHERE w.settings IS DISTINCT FROM (
        SELECT coalesce(array_agg(s.setting ORDER BY s.setting), '{}') FROM (
            -- One for a single database never equals what is wanted.
            SELECT CASE d.setdatabase WHEN 0 THEN '' ELSE d.setdatabase || '/' END || c AS setting
            FROM pg_db_role_setting d CROSS JOIN unnest(d.setconfig) c
            WHERE d.setrole = to_regrole(quote_ident(w.role_name))) s);
$$;
COMMENT ON FUNCTION intake.altered_roles IS 'Our roles whose settings are not those of role_settings(): PostgreSQL lets each role change its own.';

CREATE FUNCTION intake.reset_role(role_name name, since timestamptz) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '3s' AS $$ -- everybody who logs in waits meanwhile
DECLARE
    place   name;
    setting text;
BEGIN
    PERFORM intake.let_go('pg_db_role_setting', true);
    -- Who logs in before this is committed gets what is right. Nobody changes it meanwhile, either.
    LOCK TABLE pg_db_role_setting IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER ROLE %I RESET ALL', reset_role.role_name);
    FOR place IN SELECT d.datname FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
            WHERE s.setrole = to_regrole(quote_ident(reset_role.role_name)) LOOP
        EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', reset_role.role_name, place);
    END LOOP;
    FOR setting IN SELECT unnest(w.settings) FROM intake.role_settings() w WHERE w.role_name = reset_role.role_name LOOP
        EXECUTE format('ALTER ROLE %I SET %I = %L', reset_role.role_name, split_part(setting, '=', 1),
            split_part(setting, '=', 2));
    END LOOP;
    PERFORM pg_stat_clear_snapshot();
    RETURN (SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
        WHERE a.usename = reset_role.role_name AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
            AND a.backend_start >= coalesce(reset_role.since, '-infinity'));
END $$;
COMMENT ON FUNCTION intake.reset_role IS 'Give a role its settings again, and end its sessions that began after `since` (NULL: all), because they may have others. Returns how many.';

CREATE FUNCTION intake.let_go(catalog regclass, readers boolean) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_terminate_backend(a.pid, 5000) FROM pg_stat_activity a JOIN pg_authid r ON r.oid = a.usesysid
    WHERE NOT r.rolsuper AND EXISTS (SELECT FROM pg_locks l
        WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' AND l.relation = let_go.catalog
            AND (let_go.readers OR l.mode = 'RowExclusiveLock'));
$$;
COMMENT ON FUNCTION intake.let_go IS 'End the sessions that hold up whoever sets a catalog right: those that are about to change it, or have only named it in a PREPARE, which asks for no right; with `readers` those that read it, too.';

CREATE TABLE intake.logins (
    role_name   name PRIMARY KEY,
    fingerprint text NOT NULL,
    verifier    text NOT NULL
);
COMMENT ON TABLE intake.logins IS 'The passwords that set_login() gave: which Secret each came from, and a digest of the verifier that was written.';

CREATE FUNCTION intake.set_login(role_name name, verifier text, fingerprint text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s' AS $$
BEGIN
    PERFORM intake.let_go('pg_authid', false);
    LOCK TABLE pg_authid IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', set_login.role_name, set_login.verifier);
    INSERT INTO intake.logins
    SELECT a.rolname, set_login.fingerprint, encode(sha256(a.rolpassword::bytea), 'hex')
    FROM pg_authid a WHERE a.rolname = set_login.role_name
    ON CONFLICT ON CONSTRAINT logins_pkey DO UPDATE SET fingerprint = excluded.fingerprint, verifier = excluded.verifier;
END $$;
COMMENT ON FUNCTION intake.set_login IS 'Let a role log in with the password of a SCRAM verifier, and note which Secret it came from.';

CREATE FUNCTION intake.known_logins() RETURNS TABLE (role_name name, fingerprint text)
LANGUAGE sql STABLE AS $$
    SELECT l.role_name, l.fingerprint FROM intake.logins l JOIN pg_authid a ON a.rolname = l.role_name
    WHERE a.rolcanlogin AND encode(sha256(a.rolpassword::bytea), 'hex') = l.verifier;
$$;
COMMENT ON FUNCTION intake.known_logins IS 'Roles that log in with the password that set_login() gave them, and the fingerprint of its Secret. One that changed its own password is not among them.';

SELECT intake.reset_role(w.role_name, 'infinity') FROM intake.role_settings() w;
