-- Who may do what: the roles, the schema, and nothing for anybody else.
--
-- The migrating superuser owns everything. Roles come without login and password; whoever runs the migrations adds
-- them. A role reaches DB1 only through functions (SECURITY DEFINER, with a pinned search_path) and a few views, each
-- granted where it is defined. Roles belong to the server, not to the database: hence "if not there yet".

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['claimer', 'bridge', 'monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
    -- PostgreSQL lets everybody connect and create temporary tables unless told otherwise.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO claimer, bridge, monitor', current_database());
END $$;

-- A claim is a matter of milliseconds. A claimer that keeps one open holds up seal(), so the server ends it.
ALTER ROLE claimer SET idle_in_transaction_session_timeout = '5s';
ALTER ROLE claimer SET transaction_timeout = '15s';
-- Whoever looks holds it up, too; but a look at a million claims may take minutes.
ALTER ROLE monitor SET idle_in_transaction_session_timeout = '5s';
-- No user id gets into the log. The settings of the server keep statements, parameters and rows out of it, but not the
-- message itself, which quotes what cannot be read: `invalid input syntax for type uuid: "ann"`, `syntax error at or near
-- "ann"`. So nothing that a role provokes is logged, short of the end of its session; who sent it is told. Nor can a role
-- write there (RAISE LOG), or turn this back: it is a superuser's to set.
ALTER ROLE claimer SET log_min_messages = 'fatal';
ALTER ROLE bridge SET log_min_messages = 'fatal';
ALTER ROLE monitor SET log_min_messages = 'fatal';

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
GRANT USAGE ON SCHEMA intake TO claimer, bridge, monitor;
