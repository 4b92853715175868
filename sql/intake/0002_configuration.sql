-- The live configuration of a pool (LOGGED), and the hot row that claims read (UNLOGGED).
--
-- engine_config is what the operator writes and bridges poll. A claim reads only intake.pools: one small row with what
-- a claim needs. That table is UNLOGGED on purpose: a crash empties it together with the holds, so "no hot row" means
-- "the holds are not to be trusted", and a claim answers not_ready until seed() has rebuilt them.

CREATE TABLE intake.engine_config (
    pool_id                    text        PRIMARY KEY CHECK (length(pool_id) BETWEEN 1 AND 63),
    pool_no                    int         GENERATED ALWAYS AS IDENTITY UNIQUE,
    inventory_size             bigint      NOT NULL CHECK (inventory_size BETWEEN 1 AND 10000000),
    batch_size                 int         NOT NULL CHECK (batch_size BETWEEN 1 AND 10000),
    opens_at                   timestamptz NOT NULL,
    closes_at                  timestamptz NOT NULL,
    visibility_timeout_seconds int         NOT NULL CHECK (visibility_timeout_seconds BETWEEN 1 AND 3600),
    max_retries                int         NOT NULL CHECK (max_retries BETWEEN 0 AND 100),
    paused                     boolean     NOT NULL,
    claims_per_user            int         CHECK (claims_per_user BETWEEN 1 AND 1000),
    claim_timeout_seconds       int         CHECK (claim_timeout_seconds > 0),
    max_per_second             int         CHECK (max_per_second > 0),
    latency_budget_ms          int         NOT NULL CHECK (latency_budget_ms BETWEEN 1 AND 60000),
    validation                 jsonb,
    commit_target              jsonb,
    own_resources              boolean     NOT NULL DEFAULT false,
    generation                 bigint      NOT NULL DEFAULT 1,
    epoch                      bigint      NOT NULL DEFAULT 0,
    sealed_at                  timestamptz,
    seal_reason                text,
    CHECK (opens_at < closes_at)
);
COMMENT ON TABLE intake.engine_config IS 'One row a pool: what the event asks for. Written by configure() and seal() only.';
COMMENT ON COLUMN intake.engine_config.epoch IS 'How many lives the UNLOGGED data has had, the one in a DB1 that was lost and restored included; 0 = never seeded.';

CREATE UNLOGGED TABLE intake.pools (
    pool_id         text        PRIMARY KEY,
    pool_no         int         NOT NULL UNIQUE,
    epoch           bigint      NOT NULL,
    capacity        bigint      NOT NULL,
    claims_per_user int,
    opens_at        timestamptz NOT NULL,
    closes_at       timestamptz NOT NULL,
    paused          boolean     NOT NULL,
    sealed          boolean     NOT NULL,
    sold_out        boolean     NOT NULL DEFAULT false,
    by_name         boolean     NOT NULL,
    series          text,
    ticket_seq      regclass    NOT NULL
) WITH (fillfactor = 50); -- room for a new version on the same page: updates stay off the indexes
COMMENT ON TABLE intake.pools IS 'The hot row a claim reads. Absent = holds not (re)built yet, claims answer not_ready.';
COMMENT ON COLUMN intake.pools.capacity IS 'Slots that are seeded and for sale; follows inventory_size through seed().';
COMMENT ON COLUMN intake.pools.by_name IS 'Numbers may have been taken by name and given back before their ticket came: who takes a number strikes it from the free list.';
COMMENT ON COLUMN intake.pools.series IS 'What its resource ids begin with; NULL = it has resources of its own, in slots.';
COMMENT ON COLUMN intake.pools.sold_out IS 'Latch: every number up to capacity is held or on the free list; draw no tickets.';

CREATE TABLE intake.audit (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    pool_id text        NOT NULL,
    action  text        NOT NULL,
    actor   text        NOT NULL,
    reason  text        NOT NULL,
    detail  jsonb       NOT NULL
);
COMMENT ON TABLE intake.audit IS 'What people (and the operator on their behalf) did by hand: seal, replay, discard, restore.';

CREATE FUNCTION intake.config_of(pool_id text) RETURNS intake.engine_config
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_row intake.engine_config;
BEGIN
    SELECT c.* INTO found_row FROM intake.engine_config c WHERE c.pool_id = config_of.pool_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown pool %', coalesce(quote_literal(config_of.pool_id), 'NULL')
            USING ERRCODE = 'IE001', HINT = 'Pools are made with intake.configure(pool_id, config).';
    END IF;
    RETURN found_row;
END $$;
COMMENT ON FUNCTION intake.config_of IS 'The configuration of a pool, or IE001.';

CREATE FUNCTION intake.configure(pool_id text, config jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known  CONSTANT text[] := ARRAY['inventorySize', 'batchSize', 'opensAt', 'closesAt', 'visibilityTimeoutSeconds',
        'maxRetries', 'paused', 'claimsPerUser', 'claimTimeoutSeconds', 'maxPerSecond', 'latencyBudgetMilliseconds',
        'validation', 'commitTarget', 'ownResources'];
    before intake.engine_config;
    wanted intake.engine_config;
    stray  text;
BEGIN
    IF configure.pool_id IS NULL OR jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'configure needs a pool and a JSON object' USING ERRCODE = 'IE002',
            HINT = 'Call intake.configure(''my-pool'', ''{"inventorySize": 100, "opensAt": …, "closesAt": …}'').';
    END IF;
    SELECT string_agg(k, ', ') INTO stray FROM jsonb_object_keys(config) k WHERE k <> ALL (known);
    IF stray IS NOT NULL THEN
        RAISE EXCEPTION 'unknown configuration: %', stray USING ERRCODE = 'IE002',
            HINT = 'Known are ' || array_to_string(known, ', ') || '.';
    END IF;

    -- One configure at a time; claims and bridges only read. Not by a lock of the table: everybody who may look into the
    -- schema has one of those with PREPARE, which asks for no right to the table.
    PERFORM pg_advisory_xact_lock(hashtext('intake.configure'));
    SELECT c.* INTO before FROM intake.engine_config c WHERE c.pool_id = configure.pool_id FOR UPDATE;
    wanted := before;
    BEGIN
        wanted.inventory_size := (config ->> 'inventorySize')::bigint;
        wanted.opens_at := (config ->> 'opensAt')::timestamptz;
        wanted.closes_at := (config ->> 'closesAt')::timestamptz;
        IF before.sealed_at IS NOT NULL THEN -- window and inventory are history: who only throttles the drain may leave them out
            wanted.inventory_size := coalesce(wanted.inventory_size, before.inventory_size);
            wanted.opens_at := coalesce(wanted.opens_at, before.opens_at);
            wanted.closes_at := coalesce(wanted.closes_at, before.closes_at);
        END IF;
        wanted.batch_size := coalesce((config ->> 'batchSize')::int, 100);
        wanted.visibility_timeout_seconds := coalesce((config ->> 'visibilityTimeoutSeconds')::int, 45);
        wanted.max_retries := coalesce((config ->> 'maxRetries')::int, 10);
        wanted.paused := coalesce((config ->> 'paused')::boolean, false);
        wanted.claims_per_user := (config ->> 'claimsPerUser')::int;
        wanted.claim_timeout_seconds := (config ->> 'claimTimeoutSeconds')::int;
        wanted.max_per_second := (config ->> 'maxPerSecond')::int;
        wanted.latency_budget_ms := coalesce((config ->> 'latencyBudgetMilliseconds')::int, 1000);
        wanted.own_resources := coalesce((config ->> 'ownResources')::boolean, false);
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'bad configuration for pool %: %', configure.pool_id, SQLERRM USING ERRCODE = 'IE002',
            HINT = 'Numbers, booleans and RFC 3339 times, as in the IntakeEvent.';
    END;
    wanted.validation := nullif(config -> 'validation', 'null');
    wanted.commit_target := nullif(config -> 'commitTarget', 'null');

    IF wanted.inventory_size IS NULL OR wanted.opens_at IS NULL OR wanted.closes_at IS NULL THEN
        RAISE EXCEPTION 'inventorySize, opensAt and closesAt have no default' USING ERRCODE = 'IE002',
            HINT = 'Give all three in every call; only a sealed pool keeps what it had.';
    END IF;
    IF before.sealed_at IS NOT NULL AND (wanted.inventory_size, wanted.opens_at, wanted.closes_at)
            IS DISTINCT FROM (before.inventory_size, before.opens_at, before.closes_at) THEN
        RAISE EXCEPTION 'pool % is sealed (%)', configure.pool_id, before.seal_reason USING ERRCODE = 'IE003',
            HINT = 'Window and inventory of a sealed pool stay as they are; a new sale is a new event.';
    END IF;
    IF wanted.inventory_size < before.inventory_size THEN
        RAISE EXCEPTION 'inventory of pool % cannot shrink from % to %', configure.pool_id, before.inventory_size,
            wanted.inventory_size USING ERRCODE = 'IE004', HINT = 'Slots may be sold already: inventorySize only grows.';
    END IF;

    IF wanted.own_resources <> before.own_resources THEN
        RAISE EXCEPTION 'pool % cannot change between counted slots and resources of its own', configure.pool_id
            USING ERRCODE = 'IE004', HINT = 'Its slots have their ids already; a new sale is a new event.';
    END IF;

    IF before.pool_id IS NOT NULL AND wanted IS NOT DISTINCT FROM before THEN
        RETURN before.generation;
    END IF;
    wanted.generation := coalesce(before.generation, 0) + 1;
    BEGIN
        INSERT INTO intake.engine_config AS c (pool_id, inventory_size, batch_size, opens_at, closes_at,
            visibility_timeout_seconds, max_retries, paused, claims_per_user, claim_timeout_seconds, max_per_second,
            latency_budget_ms, validation, commit_target, own_resources, generation)
        VALUES (configure.pool_id, wanted.inventory_size, wanted.batch_size, wanted.opens_at, wanted.closes_at,
            wanted.visibility_timeout_seconds, wanted.max_retries, wanted.paused, wanted.claims_per_user,
            wanted.claim_timeout_seconds, wanted.max_per_second, wanted.latency_budget_ms, wanted.validation,
            wanted.commit_target, wanted.own_resources, wanted.generation)
        ON CONFLICT ON CONSTRAINT engine_config_pkey DO UPDATE SET
            inventory_size = excluded.inventory_size, batch_size = excluded.batch_size,
            opens_at = excluded.opens_at, closes_at = excluded.closes_at,
            visibility_timeout_seconds = excluded.visibility_timeout_seconds, max_retries = excluded.max_retries,
            paused = excluded.paused, claims_per_user = excluded.claims_per_user,
            claim_timeout_seconds = excluded.claim_timeout_seconds, max_per_second = excluded.max_per_second,
            latency_budget_ms = excluded.latency_budget_ms, validation = excluded.validation, commit_target = excluded.commit_target, generation = excluded.generation;
    EXCEPTION WHEN check_violation THEN
        RAISE EXCEPTION 'configuration of pool % is out of range: %', configure.pool_id, SQLERRM
            USING ERRCODE = 'IE002', HINT = 'The ranges are those of the IntakeEvent.';
    END;
    IF before.pool_id IS NOT NULL AND (before.claims_per_user IS NULL) <> (wanted.claims_per_user IS NULL) THEN
        -- Turns mean something else with a limit than without. The lock waits for running claims, as in seal(): those
        -- that come after it find all the others under the new kind of key.
        PERFORM intake.lock_alone('intake.pools');
        UPDATE intake.claimed_slots h
        SET turn = intake.turn_of(CASE WHEN wanted.claims_per_user IS NOT NULL THEN n.nth END, h.seat, h.request_id)
        -- By the claim: a bridge that voids one at this moment moves it off its slot.
        FROM (SELECT x.claim_id, row_number() OVER (PARTITION BY x.user_id ORDER BY x.claim_id) AS nth
            FROM intake.claimed_slots x WHERE x.pool_no = before.pool_no) n
        WHERE h.pool_no = before.pool_no AND h.claim_id = n.claim_id;
    END IF;
    IF (wanted.max_per_second IS NULL) <> (before.max_per_second IS NULL) THEN
        -- Made anew whenever it is switched on: until then calls were sent that no meter has seen.
        DELETE FROM intake.token_buckets m WHERE m.pool_no = before.pool_no;
        IF wanted.max_per_second IS NOT NULL THEN
            PERFORM intake.open_bucket(intake.config_of(configure.pool_id), before.pool_id IS NULL);
        END IF;
    END IF;
    -- Capacity is not touched here: it grows in seed(), once the new slots exist.
    UPDATE intake.pools p SET claims_per_user = wanted.claims_per_user, opens_at = wanted.opens_at,
        closes_at = wanted.closes_at, paused = wanted.paused
    WHERE p.pool_id = configure.pool_id;
    RETURN wanted.generation;
END $$;
COMMENT ON FUNCTION intake.configure IS 'Upsert the configuration of a pool; returns its generation, bumped only by a change.';

CREATE FUNCTION intake.window_state(opens_at timestamptz, closes_at timestamptz) RETURNS text
LANGUAGE sql VOLATILE
RETURN CASE WHEN clock_timestamp() < opens_at THEN 'scheduled' WHEN clock_timestamp() < closes_at THEN 'open' ELSE 'closed' END;
COMMENT ON FUNCTION intake.window_state IS 'scheduled, open or closed, by the clock of this database.';

CREATE FUNCTION intake.configuration(pool_id text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c intake.engine_config := intake.config_of(configuration.pool_id);
BEGIN
    RETURN jsonb_build_object(
        'inventorySize', c.inventory_size, 'batchSize', c.batch_size, 'opensAt', c.opens_at, 'closesAt', c.closes_at,
        'visibilityTimeoutSeconds', c.visibility_timeout_seconds, 'maxRetries', c.max_retries, 'paused', c.paused,
        'claimsPerUser', c.claims_per_user, 'claimTimeoutSeconds', c.claim_timeout_seconds,
        'maxPerSecond', c.max_per_second, 'latencyBudgetMilliseconds', c.latency_budget_ms,
        'validation', c.validation, 'commitTarget', c.commit_target, 'ownResources', c.own_resources,
        'generation', c.generation, 'sealed', c.sealed_at IS NOT NULL,
        'windowState', intake.window_state(c.opens_at, c.closes_at));
END $$;
COMMENT ON FUNCTION intake.configuration IS 'What configure() was given, plus generation, sealed and windowState.';
GRANT EXECUTE ON FUNCTION intake.configuration TO bridge, monitor;
