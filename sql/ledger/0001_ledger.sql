-- The ledger: a reference for the database that keeps the sales (DB2).
--
-- The outcome of a claim is decided here, once: the first call that inserts its claim_id says committed or voided, and
-- every later call gets that answer. So retries, lost replies and two workers with one message are harmless. What is
-- sold is a row for each slot. One call writes both, all rows of a claim or none.
--
-- For the bridge: finalize_transaction, finalize_transactions, void_claim. For the bridge and the operator:
-- ledger_proof, ledger_claims. The functions in the schema ledger are internal.
--
-- Any client may run this file once, on any supported PostgreSQL. Use it as it is, or keep only the signatures of the
-- functions and write to your own tables.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['ledger_writer', 'ledger_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END $$;

CREATE SCHEMA ledger;
COMMENT ON SCHEMA ledger IS 'The sales that intake-engine has delivered.';

CREATE TABLE ledger.claims (
    claim_id    uuid        PRIMARY KEY,
    pool_id     text        NOT NULL,
    user_id     text        NOT NULL,
    request_id  text,
    claimed_at  timestamptz,
    state       text        NOT NULL CHECK (state IN ('committed', 'voided')),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ledger.claims IS 'One row for each claim whose outcome is known. Insert only.';
-- For ledger_claims(): a page costs the same, however large the table is.
CREATE INDEX claims_pool_key ON ledger.claims (pool_id, claim_id);
-- For the sales of one user.
CREATE INDEX claims_user_key ON ledger.claims (user_id) WHERE state = 'committed';

CREATE TABLE ledger.sold_slots (
    pool_id     text   NOT NULL,
    slot_no     bigint NOT NULL,
    claim_id    uuid   NOT NULL,
    resource_id uuid   NOT NULL,
    -- A second guard against overselling that does not depend on anything upstream.
    PRIMARY KEY (pool_id, slot_no)
);
COMMENT ON TABLE ledger.sold_slots IS 'What the committed claims have sold, a row for each slot. Insert only.';
-- No foreign key: only the functions below write, to both tables in one call, and every sale would check the key.
CREATE INDEX sold_slots_claim_key ON ledger.sold_slots (claim_id);

-- ledger_reader sees the sales of the user in intake.user_id, and none where that is not set. The functions below run
-- as the owner, to whom row security does not apply.
ALTER TABLE ledger.claims ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_sales ON ledger.claims FOR SELECT TO ledger_reader
    USING (state = 'committed' AND user_id = nullif(current_setting('intake.user_id', true), ''));
ALTER TABLE ledger.sold_slots ENABLE ROW LEVEL SECURITY;
-- The claims of the user, as the policy above shows them. The array is made once, and the slots are found by index.
CREATE POLICY own_slots ON ledger.sold_slots FOR SELECT TO ledger_reader
    USING (claim_id = ANY (ARRAY(SELECT c.claim_id FROM ledger.claims c)));

CREATE FUNCTION ledger.outcome_of(claim_id uuid, pool_id text, user_id text, slot_no bigint, resource_id uuid)
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN (c.pool_id, c.user_id) IS DISTINCT FROM (outcome_of.pool_id, outcome_of.user_id) THEN 'conflict'
        WHEN c.state = 'committed' AND NOT EXISTS (SELECT FROM ledger.sold_slots s
            WHERE s.claim_id = c.claim_id AND s.slot_no = outcome_of.slot_no AND s.resource_id = outcome_of.resource_id)
            THEN 'conflict'
        ELSE c.state END
    FROM ledger.claims c WHERE c.claim_id = outcome_of.claim_id;
$$;
COMMENT ON FUNCTION ledger.outcome_of IS
    'committed or voided; conflict if the claim with this id is another one; NULL if there is none.';

CREATE FUNCTION ledger.wait_for_standby() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- A transaction that writes nothing does not wait for a synchronous standby. What it has read may have been written
    -- by a transaction whose wait was cancelled: a failover would lose it after the bridge has archived its message.
    IF current_setting('synchronous_standby_names') <> '' THEN
        PERFORM pg_logical_emit_message(true, 'ledger', 'wait for standby');
    END IF;
END $$;
COMMENT ON FUNCTION ledger.wait_for_standby IS
    'Call it before an answer that was decided earlier: the commit then waits until a synchronous standby has it too.';

CREATE FUNCTION ledger.commit_all(payloads jsonb) RETURNS TABLE (claim_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    ids       uuid[];
    pools     text[];
    users     text[];
    slots     bigint[];
    resources uuid[];
    requests  text[];
    moments   timestamptz[];
    fresh     uuid[];
    sold      uuid[];
    refused   uuid[];
BEGIN
    SELECT array_agg(i.claim_id), array_agg(i.pool_id), array_agg(i.user_id), array_agg(i.slot_no),
        array_agg(i.resource_id), array_agg(i.request_id), array_agg(i.claimed_at)
    INTO ids, pools, users, slots, resources, requests, moments
    FROM (SELECT DISTINCT ON (r.claim_id) r.*
        FROM jsonb_to_recordset(payloads) AS r (claim_id uuid, pool_id text, user_id text, slot_no bigint,
            resource_id uuid, request_id text, claimed_at timestamptz)
        ORDER BY r.claim_id) i;
    -- First all claims in the order of their ids, then all slots in theirs: two calls that overlap wait for each other
    -- and never deadlock.
    WITH inserted AS (
        INSERT INTO ledger.claims (claim_id, pool_id, user_id, request_id, claimed_at, state)
        SELECT i.claim_id, i.pool_id, i.user_id, i.request_id, i.claimed_at, 'committed'
        FROM unnest(ids, pools, users, requests, moments) AS i (claim_id, pool_id, user_id, request_id, claimed_at)
        ORDER BY i.claim_id
        ON CONFLICT DO NOTHING
        RETURNING claims.claim_id)
    SELECT coalesce(array_agg(n.claim_id), '{}') INTO fresh FROM inserted n;
    WITH inserted AS (
        INSERT INTO ledger.sold_slots (pool_id, slot_no, claim_id, resource_id)
        SELECT i.pool_id, i.slot_no, i.claim_id, i.resource_id
        FROM unnest(ids, pools, slots, resources) AS i (claim_id, pool_id, slot_no, resource_id)
        JOIN unnest(fresh) AS f (claim_id) USING (claim_id)
        ORDER BY i.pool_id, i.slot_no
        ON CONFLICT DO NOTHING
        RETURNING sold_slots.claim_id)
    SELECT coalesce(array_agg(n.claim_id), '{}') INTO sold FROM inserted n;
    IF cardinality(sold) = cardinality(ids) THEN
        RETURN QUERY SELECT s, 'committed' FROM unnest(sold) s;
        RETURN;
    END IF;
    IF cardinality(sold) < cardinality(fresh) THEN
        -- Another claim has the slot. Delete what was inserted for this one.
        SELECT array_agg(f) INTO refused FROM unnest(fresh) f WHERE f <> ALL (sold);
        DELETE FROM ledger.claims c WHERE c.claim_id = ANY (refused);
    END IF;
    PERFORM ledger.wait_for_standby();
    -- A new statement, to see what others committed while the statements above waited for them.
    RETURN QUERY
    SELECT i.claim_id, CASE WHEN s.claim_id IS NOT NULL THEN 'committed' WHEN k.outcome = 'committed' THEN 'duplicate'
        ELSE coalesce(k.outcome, 'conflict') END
    FROM unnest(ids, pools, users, slots, resources) AS i (claim_id, pool_id, user_id, slot_no, resource_id)
    LEFT JOIN unnest(sold) AS s (claim_id) USING (claim_id)
    CROSS JOIN LATERAL (SELECT
        ledger.outcome_of(i.claim_id, i.pool_id, i.user_id, i.slot_no, i.resource_id) AS outcome) k;
END $$;
COMMENT ON FUNCTION ledger.commit_all IS
    'finalize_transactions() where every row is well formed: a few statements for any number of claims.';

CREATE FUNCTION public.finalize_transaction(payload jsonb) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.outcome FROM ledger.commit_all(jsonb_build_array(payload)) a;
$$;
COMMENT ON FUNCTION public.finalize_transaction IS
    'Commit one claim, given as a JSON object with claim_id, pool_id, user_id, slot_no, resource_id, request_id, '
    'claimed_at. Returns committed, duplicate (committed before, and the same), voided, or conflict (the claim_id or '
    'the slot belongs to another sale). Raises the error of PostgreSQL for a row that cannot be written.';

CREATE FUNCTION public.finalize_transactions(payloads jsonb) RETURNS TABLE (claim_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    item    jsonb;
    written boolean := false;
    code    text;
    problem text;
BEGIN
    BEGIN
        RETURN QUERY SELECT a.claim_id, a.outcome FROM ledger.commit_all(payloads) a;
        RETURN;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        NULL; -- at least one row is bad: write them one by one, so that it fails alone
    END;
    FOR item IN SELECT e FROM jsonb_array_elements(payloads) e ORDER BY e ->> 'claim_id' LOOP
        BEGIN
            RETURN QUERY SELECT a.claim_id, a.outcome FROM ledger.commit_all(jsonb_build_array(item)) a;
            written := true;
        EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, problem = MESSAGE_TEXT;
            -- A row that cannot be written needs a person, like any conflict. Without a claim_id it has no answer.
            IF item ->> 'claim_id' ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
                RETURN QUERY SELECT (item ->> 'claim_id')::uuid, 'conflict';
            END IF;
        END;
    END LOOP;
    -- None could be written: the cause may be the table and not the rows, and the caller needs the error.
    IF NOT written AND code IS NOT NULL THEN
        RAISE EXCEPTION '%', problem USING ERRCODE = code;
    END IF;
END $$;
COMMENT ON FUNCTION public.finalize_transactions IS
    'Commit many claims, given as a JSON array of the objects of finalize_transaction(). One outcome for each '
    'claim_id, in no order. A bad row among others is a conflict. Where none can be written, raises '
    'the error of the last one.';

CREATE FUNCTION public.void_claim(payload jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ledger.claims (claim_id, pool_id, user_id, request_id, claimed_at, state)
    VALUES ((payload ->> 'claim_id')::uuid, payload ->> 'pool_id', payload ->> 'user_id', payload ->> 'request_id',
        (payload ->> 'claimed_at')::timestamptz, 'voided')
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN 'voided';
    END IF;
    PERFORM ledger.wait_for_standby();
    RETURN ledger.outcome_of((payload ->> 'claim_id')::uuid, payload ->> 'pool_id', payload ->> 'user_id',
        (payload ->> 'slot_no')::bigint, (payload ->> 'resource_id')::uuid);
END $$;
COMMENT ON FUNCTION public.void_claim IS
    'Make sure that a claim is never committed. Returns voided, committed if it was too late, or conflict if the claim '
    'with this id is another one. Only after voided may its slot be sold again.';

CREATE FUNCTION ledger.digest_of(what text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    -- Of the bytes in UTF-8, because hashes of texts differ with the encoding of the database.
    SELECT ('x' || encode(substring(sha256(convert_to(what, 'UTF8')) FROM 1 FOR 8), 'hex'))::bit(64)::bigint;
$$;
COMMENT ON FUNCTION ledger.digest_of IS 'The first 64 bits of the SHA-256 of a text in UTF-8.';

-- Returns a table of one row: a function with a scalar result would not get parallel workers.
CREATE FUNCTION public.ledger_proof(pool_id text)
RETURNS TABLE (committed bigint, voided bigint, slots bigint, digest bigint)
LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- A sum needs no order. Unlike an exclusive or it notices a row that exists three times instead of once, and
    -- bit_xor() came only with PostgreSQL 14. It grows beyond a bigint, hence the remainder. The text of a voided claim
    -- begins with a word, the text of a sold slot with the id of its claim.
    SELECT c.committed, c.voided, s.slots,
        mod(coalesce(c.digest, 0) + coalesce(s.digest, 0), 9223372036854775808)::bigint
    FROM (SELECT count(*) FILTER (WHERE f.state = 'committed') AS committed,
            count(*) FILTER (WHERE f.state = 'voided') AS voided,
            sum(ledger.digest_of(concat_ws('|', 'voided', f.claim_id, f.user_id)))
                FILTER (WHERE f.state = 'voided') AS digest
        FROM ledger.claims f WHERE f.pool_id = ledger_proof.pool_id) c
    CROSS JOIN (SELECT count(*) AS slots,
            sum(ledger.digest_of(concat_ws('|', d.claim_id, f.user_id, d.slot_no, d.resource_id))) AS digest
        FROM ledger.sold_slots d LEFT JOIN ledger.claims f USING (claim_id)
        WHERE d.pool_id = ledger_proof.pool_id) s;
$$;
COMMENT ON FUNCTION public.ledger_proof IS
    'How many claims of a pool are committed and voided, how many slots are sold, and a digest of all of it without '
    'order, for the comparison with intake.proof().';

CREATE FUNCTION public.ledger_claims(pool_id text, after uuid, most int)
RETURNS TABLE (claim_id uuid, state text, user_id text, request_id text, claimed_at timestamptz, slot_nos bigint[],
    resource_ids uuid[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.claim_id, c.state, c.user_id, c.request_id, c.claimed_at, coalesce(s.slot_nos, '{}'),
        coalesce(s.resource_ids, '{}')
    FROM ledger.claims c
    CROSS JOIN LATERAL (SELECT array_agg(d.slot_no ORDER BY d.slot_no) AS slot_nos,
            array_agg(d.resource_id ORDER BY d.slot_no) AS resource_ids
        FROM ledger.sold_slots d WHERE d.claim_id = c.claim_id) s
    WHERE c.pool_id = ledger_claims.pool_id
        AND c.claim_id > coalesce(ledger_claims.after, '00000000-0000-0000-0000-000000000000')
    ORDER BY c.claim_id LIMIT ledger_claims.most;
$$;
COMMENT ON FUNCTION public.ledger_claims IS
    'The claims of a pool, whole claims in the order of claim_id: at most `most` after the claim `after` (NULL: from '
    'the first). slot_nos and resource_ids are parallel, and empty for a voided claim.';

REVOKE ALL ON SCHEMA ledger FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.outcome_of, ledger.wait_for_standby, ledger.commit_all, ledger.digest_of,
    public.finalize_transaction, public.finalize_transactions, public.void_claim, public.ledger_proof,
    public.ledger_claims FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.finalize_transaction, public.finalize_transactions, public.void_claim,
    public.ledger_proof, public.ledger_claims TO ledger_writer;
GRANT USAGE ON SCHEMA ledger TO ledger_reader;
GRANT SELECT ON ledger.claims, ledger.sold_slots TO ledger_reader;
