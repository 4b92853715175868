-- Who may do what: the roles, their settings, the two schemas, and nothing for PUBLIC.
--
-- The superuser that runs the migrations owns everything. Roles are created without login and password; the operator
-- adds them. A role reaches DB1 only through functions (SECURITY DEFINER, with a pinned search_path) and a few views;
-- each is granted in the file that defines it. Roles belong to the server, not to the database, so they may exist.
--
-- intake is the contract: what the roles may call, what the operator calls as the owner, and all tables, types and
-- views. intake_private has the functions that only other functions call; no role has USAGE on it
-- (docs/decisions/0002-internal-sql-functions.md).
--
-- For the operator: altered_roles, reset_role, set_login, known_logins.

DO $$
DECLARE
    wanted  text;
    db_name name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['claimer', 'bridge', 'monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
    -- PostgreSQL lets every role connect and create temporary tables unless that is revoked, also in the databases
    -- that initdb made (ids below 16384), where none of our rules apply.
    FOR db_name IN SELECT d.datname FROM pg_database d WHERE d.datname = current_database() OR d.oid < 16384 LOOP
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', db_name);
    END LOOP;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO claimer, bridge, monitor', current_database());
END $$;

CREATE SCHEMA intake;
COMMENT ON SCHEMA intake IS
    'The contract of intake-engine: its tables, and the functions that claimers, bridges, monitors and the operator '
    'call. See sql/README.md.';
CREATE SCHEMA intake_private;
COMMENT ON SCHEMA intake_private IS 'Functions that only the functions of intake call. No role may use this schema.';

-- user_id and request_id are texts. A driver that sends a UUID with its type (psycopg, JDBC) finds no function for it
-- unless the cast is implicit.
CREATE CAST (uuid AS text) WITH INOUT AS IMPLICIT;

-- From here on a role may use what we create only after a GRANT. PUBLIC may execute functions unless that default is
-- revoked for the whole database; a default for one schema cannot do it.
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC;

REVOKE ALL ON SCHEMA public, pgmq, intake, intake_private FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pgmq FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgmq FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA pgmq FROM PUBLIC;
-- A role with USAGE on a language can run any code with DO. Calling a function needs no right to its language.
REVOKE ALL ON LANGUAGE plpgsql, sql FROM PUBLIC;
GRANT USAGE ON SCHEMA intake TO claimer, bridge, monitor;

-- What PUBLIC may call of PostgreSQL itself. A function that is not VOLATILE changes nothing. Of the others PUBLIC
-- keeps those that clients call by themselves and that affect only their own session;
-- tests/sql/test_public_functions.py has the reason for each. All others are revoked, including any that a later
-- version of PostgreSQL adds: advisory locks (a claimer that took ours would block every claim), large objects,
-- exported snapshots and messages to the WAL (they fill the disk), signals to other sessions of the same role,
-- pg_locks (reading it blocks all locking). Our own functions run as their owner, who keeps all rights.
DO $$
DECLARE
    allowed   CONSTANT name[] := ARRAY['array_sample', 'array_shuffle', 'clock_timestamp', 'current_query',
        'gen_random_uuid', 'pg_advisory_unlock_all', 'pg_is_in_recovery', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until',
            'pg_xact_status',
        'random', 'random_normal', 'set_config', 'setseed', 'timeofday', 'txid_status', 'uuidv4', 'uuidv7'];
    -- Not VOLATILE, but they show the statements of other sessions, which contain user ids.
    revealing CONSTANT name[] := ARRAY['pg_stat_get_activity', 'pg_stat_get_backend_activity'];
BEGIN
    EXECUTE (SELECT format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', string_agg(p.oid::regprocedure::text, ', '))
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND (p.provolatile = 'v' AND p.proname <> ALL (allowed) OR p.proname = ANY (revealing)));
    -- Monitoring of the server works as before.
    EXECUTE (SELECT format('GRANT EXECUTE ON ROUTINE %s TO pg_monitor', string_agg(p.oid::regprocedure::text, ', '))
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND p.proname ~ '^pg_(stat_get_.*|lock_status|blocking_pids|.*_size|current_wal_.*lsn)$');
END $$;
-- The advisory lock decides which bridge does the housekeeping.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) TO bridge;

-- CREATE RULE waits for an ACCESS EXCLUSIVE lock, CREATE TRIGGER for nearly as much, and only then checks the right
-- to the table. Every session that comes later waits behind it. This trigger checks before the wait.
CREATE FUNCTION intake_private.refuse_definitions() RETURNS event_trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_catalog.has_schema_privilege(current_user, 'intake', 'CREATE') THEN
        RAISE EXCEPTION 'role % may not define anything in this database', current_user
            USING ERRCODE = 'insufficient_privilege',
            HINT = 'Claimers, bridges and monitors call functions of the schema intake; see sql/README.md.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.refuse_definitions IS
    'Event trigger: only the owner of the schema intake defines objects in this database. Raises 42501 '
    '(insufficient_privilege).';
CREATE EVENT TRIGGER intake_definitions ON ddl_command_start EXECUTE FUNCTION intake_private.refuse_definitions();

CREATE FUNCTION intake_private.role_settings() RETURNS TABLE (role_name name, settings text[])
LANGUAGE sql STABLE AS $$
    VALUES
    -- No user id may get into the log. The settings of the server keep statements, parameters and rows out of it, but
    -- not the message itself, which quotes what cannot be parsed: `invalid input syntax for type uuid: "ann"`. So
    -- errors of these roles are not logged unless they end the session; the client still gets them. log_min_messages
    -- can only be set by a superuser, so no role can turn it back. A claim takes milliseconds. A claimer that keeps
    -- one open delays seal(), so the server ends its session. Claims need no temporary file: the largest batch
    -- (4000 slots with the longest ids, labels and attributes, and the largest payloads) fits into work_mem.
    ('claimer'::name, ARRAY['idle_in_transaction_session_timeout=5s', 'log_min_messages=fatal', 'temp_file_limit=1MB',
        'transaction_timeout=15s', 'work_mem=16MB']),
    ('bridge', ARRAY['log_min_messages=fatal']),
    -- An open read delays seal() too, so idle transactions end; but a read of a million claims may take minutes, so
    -- transaction_timeout stays off.
    ('monitor', ARRAY['idle_in_transaction_session_timeout=5s', 'log_min_messages=fatal']);
$$;
COMMENT ON FUNCTION intake_private.role_settings IS
    'Our roles and the only settings that each of them has, sorted by setting, as text such as work_mem=4MB.';

CREATE FUNCTION intake.altered_roles() RETURNS SETOF name
LANGUAGE sql STABLE AS $$
    SELECT w.role_name FROM intake_private.role_settings() w
    WHERE w.settings IS DISTINCT FROM (
        SELECT coalesce(array_agg(s.setting ORDER BY s.setting), '{}') FROM (
            -- A setting for a single database gets a prefix, so that it always differs.
            SELECT CASE d.setdatabase WHEN 0 THEN '' ELSE d.setdatabase || '/' END || c AS setting
            FROM pg_db_role_setting d CROSS JOIN unnest(d.setconfig) c
            WHERE d.setrole = to_regrole(quote_ident(w.role_name))) s);
$$;
COMMENT ON FUNCTION intake.altered_roles IS
    'Our roles whose settings differ from role_settings(): PostgreSQL lets each role change its own. No row: all are '
    'as they should be.';

CREATE FUNCTION intake.reset_role(role_name name, since timestamptz) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '3s' AS $$ -- every login waits for this lock
DECLARE
    db_name name;
    setting text;
BEGIN
    PERFORM intake_private.end_sessions_locking('pg_db_role_setting', true);
    -- A session that logs in before this commits waits and gets the right settings. No session can change them
    -- meanwhile.
    LOCK TABLE pg_db_role_setting IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER ROLE %I RESET ALL', reset_role.role_name);
    FOR db_name IN SELECT d.datname FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
            WHERE s.setrole = to_regrole(quote_ident(reset_role.role_name)) LOOP
        EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', reset_role.role_name, db_name);
    END LOOP;
    FOR setting IN SELECT unnest(w.settings) FROM intake_private.role_settings() w
        WHERE w.role_name = reset_role.role_name LOOP
        EXECUTE format('ALTER ROLE %I SET %I = %L', reset_role.role_name, split_part(setting, '=', 1),
            split_part(setting, '=', 2));
    END LOOP;
    PERFORM pg_stat_clear_snapshot();
    RETURN (SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
        WHERE a.usename = reset_role.role_name AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
            AND a.backend_start >= coalesce(reset_role.since, '-infinity'));
END $$;
COMMENT ON FUNCTION intake.reset_role IS
    'Give a role the settings of role_settings() again, and end its sessions that began at or after `since` (NULL: all '
    'of them), because those may run with other settings. Returns how many sessions it ended. Raises 55P03 if the '
    'catalog cannot be locked within 3 s.';

CREATE FUNCTION intake_private.end_sessions_locking(catalog regclass, readers boolean) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_terminate_backend(a.pid, 5000) FROM pg_stat_activity a JOIN pg_authid r ON r.oid = a.usesysid
    WHERE NOT r.rolsuper AND EXISTS (SELECT FROM pg_locks l
        WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' AND l.relation = end_sessions_locking.catalog
            AND (end_sessions_locking.readers OR l.mode = 'RowExclusiveLock'));
$$;
COMMENT ON FUNCTION intake_private.end_sessions_locking IS
    'End the sessions of other roles that lock a catalog which we are about to change: those that changed it or named '
    'it in a PREPARE (which needs no right to it); with `readers`, those that read it as well. Superusers are left '
    'alone. Waits up to 5 s for each.';

CREATE TABLE intake.logins (
    role_name   name PRIMARY KEY,
    fingerprint text NOT NULL,
    verifier    text NOT NULL
);
COMMENT ON TABLE intake.logins IS
    'The passwords that set_login() gave: the fingerprint of the Secret that each came from, and a SHA-256 of the '
    'verifier as it was stored.';

CREATE FUNCTION intake.set_login(role_name name, verifier text, fingerprint text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s' AS $$
BEGIN
    PERFORM intake_private.end_sessions_locking('pg_authid', false);
    LOCK TABLE pg_authid IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', set_login.role_name, set_login.verifier);
    INSERT INTO intake.logins
    SELECT a.rolname, set_login.fingerprint, encode(sha256(a.rolpassword::bytea), 'hex')
    FROM pg_authid a WHERE a.rolname = set_login.role_name
    ON CONFLICT ON CONSTRAINT logins_pkey DO UPDATE SET fingerprint = excluded.fingerprint,
        verifier = excluded.verifier;
END $$;
COMMENT ON FUNCTION intake.set_login IS
    'Let a role log in with the password of a SCRAM verifier, and remember the fingerprint of its Secret. Raises 55P03 '
    'if pg_authid cannot be locked within 5 s.';

CREATE FUNCTION intake.known_logins() RETURNS TABLE (role_name name, fingerprint text)
LANGUAGE sql STABLE AS $$
    SELECT l.role_name, l.fingerprint FROM intake.logins l JOIN pg_authid a ON a.rolname = l.role_name
    WHERE a.rolcanlogin AND encode(sha256(a.rolpassword::bytea), 'hex') = l.verifier;
$$;
COMMENT ON FUNCTION intake.known_logins IS
    'Roles that can log in with the password that set_login() gave them, and the fingerprint of its Secret. A role '
    'that changed its own password is missing.';

SELECT intake.reset_role(w.role_name, 'infinity') FROM intake_private.role_settings() w;
