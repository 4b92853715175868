-- The configuration of a pool (LOGGED), and the hot row that claims read (UNLOGGED).
--
-- engine_config is written by the operator and polled by bridges. A claim reads only intake.pools: one small row with
-- what a claim needs. It is UNLOGGED on purpose: a crash empties it together with the claimed slots. So no hot row
-- means that the claimed slots cannot be trusted, and claims answer not_ready until seed() has rebuilt them.
--
-- For the operator: configure. For bridge and monitor: configuration.

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
    claim_timeout_seconds      int         CHECK (claim_timeout_seconds > 0),
    max_payload_bytes          int         NOT NULL CHECK (max_payload_bytes BETWEEN 1 AND 65536),
    hold_seconds               int         CHECK (hold_seconds BETWEEN 10 AND 86400),
    extend_seconds             int         CHECK (extend_seconds BETWEEN 1 AND 86400),
    max_per_second             int         CHECK (max_per_second > 0),
    latency_budget_ms          int         NOT NULL CHECK (latency_budget_ms BETWEEN 1 AND 60000),
    validation                 jsonb,
    commit_target              jsonb,
    own_resources              boolean     NOT NULL DEFAULT false,
    generation                 bigint      NOT NULL DEFAULT 1,
    epoch                      bigint      NOT NULL DEFAULT 0,
    sealed_at                  timestamptz,
    seal_reason                text,
    CHECK (opens_at < closes_at),
    CHECK (extend_seconds IS NULL OR hold_seconds IS NOT NULL)
);
COMMENT ON TABLE intake.engine_config IS
    'One row for each pool: what the event asks for. Written by configure() and seal() only.';
COMMENT ON COLUMN intake.engine_config.claims_per_user IS 'The most slots that the claims of a user may have.';
COMMENT ON COLUMN intake.engine_config.hold_seconds IS
    'How long a claim waits for confirm_claim(); NULL: claims go to the queue at once.';
COMMENT ON COLUMN intake.engine_config.epoch IS
    'How many lives the UNLOGGED data has had, counting the one in a DB1 that was lost and restored; 0 = never seeded.';

CREATE UNLOGGED TABLE intake.pools (
    pool_id         text        PRIMARY KEY,
    pool_no         int         NOT NULL UNIQUE,
    epoch           bigint      NOT NULL,
    capacity        bigint      NOT NULL,
    claims_per_user int,
    max_payload_bytes int       NOT NULL,
    hold_seconds    int,
    opens_at        timestamptz NOT NULL,
    closes_at       timestamptz NOT NULL,
    paused          boolean     NOT NULL,
    sealed          boolean     NOT NULL,
    sold_out        boolean     NOT NULL DEFAULT false,
    by_name         boolean     NOT NULL,
    resource_prefix text,
    number_seq      regclass    NOT NULL
) WITH (fillfactor = 50); -- room for new versions on the same page, so that updates do not touch the indexes
COMMENT ON TABLE intake.pools IS
    'The hot row that claims read. No row: the claimed slots are not (re)built yet, and claims answer not_ready.';
COMMENT ON COLUMN intake.pools.capacity IS
    'Slots that are seeded and for sale. Follows inventory_size when seed() runs.';
COMMENT ON COLUMN intake.pools.by_name IS
    'Slots may have been claimed by name and given back before the sequence reached their numbers. A claim then '
    'removes the number that it takes from the free list.';
COMMENT ON COLUMN intake.pools.resource_prefix IS
    'The first 28 characters of the resource ids of a counted pool; NULL for a pool with its own resources, whose ids '
    'are in intake.slots.';
COMMENT ON COLUMN intake.pools.sold_out IS
    'The sold-out latch: every number up to capacity is claimed or on the free list. Claims draw no more numbers.';

CREATE TABLE intake.audit (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    pool_id text        NOT NULL,
    action  text        NOT NULL,
    actor   text        NOT NULL,
    reason  text        NOT NULL,
    detail  jsonb       NOT NULL
);
COMMENT ON TABLE intake.audit IS 'What people did by hand, or the operator for them: seal, replay, discard, show payloads, withhold, return, restore.';

CREATE FUNCTION intake_private.config_of(pool_id text) RETURNS intake.engine_config
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
COMMENT ON FUNCTION intake_private.config_of IS 'The configuration of a pool. Raises IE001 for an unknown pool.';

CREATE FUNCTION intake_private.check_config_keys(pool_id text, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    known   CONSTANT text[] := ARRAY['inventorySize', 'batchSize', 'opensAt', 'closesAt', 'visibilityTimeoutSeconds',
        'maxRetries', 'paused', 'claimsPerUser', 'claimTimeoutSeconds', 'maxPayloadBytes', 'holdSeconds',
        'extendSeconds', 'maxPerSecond', 'latencyBudgetMilliseconds', 'validation', 'commitTarget', 'ownResources'];
    unknown text;
BEGIN
    IF check_config_keys.pool_id IS NULL OR jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'configure needs a pool and a JSON object' USING ERRCODE = 'IE002',
            HINT = 'Call intake.configure(''my-pool'', ''{"inventorySize": 100, "opensAt": …, "closesAt": …}'').';
    END IF;
    SELECT string_agg(k, ', ') INTO unknown FROM jsonb_object_keys(config) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown configuration: %', unknown USING ERRCODE = 'IE002',
            HINT = 'Known are ' || array_to_string(known, ', ') || '.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_config_keys IS
    'Raises IE002 unless config is a JSON object with known keys only.';

CREATE FUNCTION intake_private.config_from_json(pool_id text, before intake.engine_config, config jsonb)
RETURNS intake.engine_config
LANGUAGE plpgsql AS $$
DECLARE
    wanted intake.engine_config := before;
BEGIN
    BEGIN
        wanted.inventory_size := (config ->> 'inventorySize')::bigint;
        wanted.opens_at := (config ->> 'opensAt')::timestamptz;
        wanted.closes_at := (config ->> 'closesAt')::timestamptz;
        IF before.sealed_at IS NOT NULL THEN -- window and inventory cannot change any more, and may be left out
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
        wanted.max_payload_bytes := coalesce((config ->> 'maxPayloadBytes')::int, 4096);
        wanted.hold_seconds := (config ->> 'holdSeconds')::int;
        wanted.extend_seconds := (config ->> 'extendSeconds')::int;
        wanted.max_per_second := (config ->> 'maxPerSecond')::int;
        wanted.latency_budget_ms := coalesce((config ->> 'latencyBudgetMilliseconds')::int, 1000);
        wanted.own_resources := coalesce((config ->> 'ownResources')::boolean, false);
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'bad configuration for pool %: %', config_from_json.pool_id, SQLERRM USING ERRCODE = 'IE002',
            HINT = 'Numbers, booleans and RFC 3339 times, as in the IntakeEvent.';
    END;
    wanted.validation := nullif(config -> 'validation', 'null');
    wanted.commit_target := nullif(config -> 'commitTarget', 'null');
    IF wanted.inventory_size IS NULL OR wanted.opens_at IS NULL OR wanted.closes_at IS NULL THEN
        RAISE EXCEPTION 'inventorySize, opensAt and closesAt have no default' USING ERRCODE = 'IE002',
            HINT = 'Give all three in every call; only a sealed pool keeps its values.';
    END IF;
    RETURN wanted;
END $$;
COMMENT ON FUNCTION intake_private.config_from_json IS
    'The configuration that a call of configure() asks for: the given values, and the defaults for what is left out. A '
    'sealed pool keeps its window and inventory if they are left out. Raises IE002 for a value that cannot be read, or '
    'a required one that is missing.';

CREATE FUNCTION intake_private.check_config_change(pool_id text, before intake.engine_config,
    wanted intake.engine_config) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF before.sealed_at IS NOT NULL AND (wanted.inventory_size, wanted.opens_at, wanted.closes_at)
            IS DISTINCT FROM (before.inventory_size, before.opens_at, before.closes_at) THEN
        RAISE EXCEPTION 'pool % is sealed (%)', check_config_change.pool_id, before.seal_reason USING ERRCODE = 'IE003',
            HINT = 'Window and inventory of a sealed pool cannot change. Create a new event for a new sale.';
    END IF;
    IF wanted.inventory_size < before.inventory_size THEN
        RAISE EXCEPTION 'inventory of pool % cannot shrink from % to %', check_config_change.pool_id,
            before.inventory_size, wanted.inventory_size USING ERRCODE = 'IE004',
            HINT = 'Slots may be sold already: inventorySize only grows.';
    END IF;
    IF wanted.own_resources <> before.own_resources THEN
        RAISE EXCEPTION 'pool % cannot change between counted slots and resources of its own',
            check_config_change.pool_id USING ERRCODE = 'IE004',
            HINT = 'Its slots have their ids already. Create a new event for a new sale.';
    END IF;
    IF before.epoch > 0 AND (wanted.hold_seconds IS NULL) <> (before.hold_seconds IS NULL) THEN
        RAISE EXCEPTION 'pool % cannot change between claims with and without a hold', check_config_change.pool_id
            USING ERRCODE = 'IE004',
            HINT = 'Claimers would not confirm, or confirm what is sold already. holdSeconds may get another value.';
    END IF;
END $$;
COMMENT ON FUNCTION intake_private.check_config_change IS
    'Raises IE003 if a sealed pool would get another window or inventory, IE004 if the inventory would shrink, '
    'ownResources would change, or holds would begin or end in a pool that was seeded.';

-- Longer than 60 lines, because it lists every column twice.
CREATE FUNCTION intake.configure(pool_id text, config jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before intake.engine_config;
    wanted intake.engine_config;
BEGIN
    PERFORM intake_private.check_config_keys(configure.pool_id, config);
    -- One configure() at a time; claims and bridges only read. An advisory lock, not a table lock: any role with USAGE
    -- on the schema can lock its tables with PREPARE, which needs no right to the table.
    PERFORM pg_advisory_xact_lock(hashtext('intake.configure'));
    SELECT c.* INTO before FROM intake.engine_config c WHERE c.pool_id = configure.pool_id FOR UPDATE;
    wanted := intake_private.config_from_json(configure.pool_id, before, config);
    PERFORM intake_private.check_config_change(configure.pool_id, before, wanted);
    IF before.pool_id IS NOT NULL AND wanted IS NOT DISTINCT FROM before THEN
        RETURN before.generation;
    END IF;
    wanted.generation := coalesce(before.generation, 0) + 1;
    BEGIN
        INSERT INTO intake.engine_config AS c (pool_id, inventory_size, batch_size, opens_at, closes_at,
            visibility_timeout_seconds, max_retries, paused, claims_per_user, claim_timeout_seconds, max_payload_bytes,
            hold_seconds, extend_seconds, max_per_second, latency_budget_ms, validation, commit_target, own_resources,
            generation)
        VALUES (configure.pool_id, wanted.inventory_size, wanted.batch_size, wanted.opens_at, wanted.closes_at,
            wanted.visibility_timeout_seconds, wanted.max_retries, wanted.paused, wanted.claims_per_user,
            wanted.claim_timeout_seconds, wanted.max_payload_bytes, wanted.hold_seconds, wanted.extend_seconds,
            wanted.max_per_second, wanted.latency_budget_ms, wanted.validation, wanted.commit_target,
            wanted.own_resources, wanted.generation)
        ON CONFLICT ON CONSTRAINT engine_config_pkey DO UPDATE SET
            inventory_size = excluded.inventory_size, batch_size = excluded.batch_size,
            opens_at = excluded.opens_at, closes_at = excluded.closes_at,
            visibility_timeout_seconds = excluded.visibility_timeout_seconds, max_retries = excluded.max_retries,
            paused = excluded.paused, claims_per_user = excluded.claims_per_user,
            claim_timeout_seconds = excluded.claim_timeout_seconds, max_payload_bytes = excluded.max_payload_bytes,
            hold_seconds = excluded.hold_seconds, extend_seconds = excluded.extend_seconds,
            max_per_second = excluded.max_per_second,
            latency_budget_ms = excluded.latency_budget_ms, validation = excluded.validation,
            commit_target = excluded.commit_target, generation = excluded.generation;
    EXCEPTION WHEN check_violation THEN
        RAISE EXCEPTION 'configuration of pool % is out of range: %', configure.pool_id, SQLERRM
            USING ERRCODE = 'IE002', HINT = 'The ranges are those of the IntakeEvent.';
    END;
    IF before.pool_id IS NOT NULL AND (before.claims_per_user IS NULL) <> (wanted.claims_per_user IS NULL) THEN
        -- Unique keys are built differently with and without a limit. The lock waits for running claims, as in seal(),
        -- so that later claims find all others under the new kind of key.
        PERFORM intake_private.lock_exclusively('intake.pools');
        UPDATE intake.claimed_slots cs SET unique_key = intake_private.unique_key_of(
            CASE WHEN wanted.claims_per_user IS NOT NULL THEN n.nth END, cs.part_no, cs.request_id)
        -- Joined by claim and part: a bridge that voids a claim at this moment changes its slot_no.
        FROM (SELECT x.claim_id, x.part_no,
                row_number() OVER (PARTITION BY x.user_id ORDER BY x.claim_id, x.part_no) AS nth
            FROM intake.claimed_slots x WHERE x.pool_no = before.pool_no AND x.status <> 'W') n
        WHERE cs.pool_no = before.pool_no AND cs.claim_id = n.claim_id AND cs.part_no = n.part_no;
    END IF;
    IF (wanted.max_per_second IS NULL) <> (before.max_per_second IS NULL) THEN
        -- Created anew when the limit is switched on: the calls that were sent before are not counted in any bucket.
        DELETE FROM intake.token_buckets b WHERE b.pool_no = before.pool_no;
        IF wanted.max_per_second IS NOT NULL THEN
            PERFORM intake_private.open_bucket(intake_private.config_of(configure.pool_id), before.pool_id IS NULL);
        END IF;
    END IF;
    -- Not capacity: it grows in seed(), once the new slots exist.
    UPDATE intake.pools p SET claims_per_user = wanted.claims_per_user, max_payload_bytes = wanted.max_payload_bytes,
        hold_seconds = wanted.hold_seconds, opens_at = wanted.opens_at, closes_at = wanted.closes_at,
        paused = wanted.paused
    WHERE p.pool_id = configure.pool_id;
    RETURN wanted.generation;
END $$;
COMMENT ON FUNCTION intake.configure IS
    'Insert or update the configuration of a pool, given as a JSON object with the keys of the IntakeEvent. Returns '
    'the generation, which grows by 1 with each change. Raises IE002 for a bad or missing value, IE003 if the pool is '
    'sealed and its window or inventory would change, IE004 if the inventory would shrink, ownResources would '
    'change, or holds would begin or end in a pool that was seeded, IE008 if other sessions keep the lock for 60 s '
    'that a change of claimsPerUser needs.';

CREATE FUNCTION intake_private.window_state(opens_at timestamptz, closes_at timestamptz) RETURNS text
LANGUAGE sql VOLATILE
RETURN CASE WHEN clock_timestamp() < opens_at THEN 'scheduled' WHEN clock_timestamp() < closes_at
    THEN 'open' ELSE 'closed' END;
COMMENT ON FUNCTION intake_private.window_state IS 'scheduled, open or closed, by the clock of this database.';

CREATE FUNCTION intake.configuration(pool_id text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c intake.engine_config := intake_private.config_of(configuration.pool_id);
BEGIN
    RETURN jsonb_build_object(
        'inventorySize', c.inventory_size, 'batchSize', c.batch_size, 'opensAt', c.opens_at, 'closesAt', c.closes_at,
        'visibilityTimeoutSeconds', c.visibility_timeout_seconds, 'maxRetries', c.max_retries, 'paused', c.paused,
        'claimsPerUser', c.claims_per_user, 'claimTimeoutSeconds', c.claim_timeout_seconds,
        'maxPayloadBytes', c.max_payload_bytes, 'holdSeconds', c.hold_seconds, 'extendSeconds', c.extend_seconds,
        'maxPerSecond', c.max_per_second, 'latencyBudgetMilliseconds', c.latency_budget_ms,
        'validation', c.validation, 'commitTarget', c.commit_target, 'ownResources', c.own_resources,
        'generation', c.generation, 'sealed', c.sealed_at IS NOT NULL,
        'windowState', intake_private.window_state(c.opens_at, c.closes_at));
END $$;
COMMENT ON FUNCTION intake.configuration IS
    'What configure() was given, plus generation, sealed and windowState (scheduled, open, closed), as a JSON object. '
    'Raises IE001 for an unknown pool.';
GRANT EXECUTE ON FUNCTION intake.configuration TO bridge, monitor;
