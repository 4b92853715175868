-- The ledger: a reference for what the bridge expects of the database that keeps the sales (DB2).
--
-- A claim's fate is decided here, once: whoever first inserts its claim_id says committed or voided, and everybody
-- after that is told. That is what makes retries, lost replies and two workers on one message harmless.
-- Any client may run this file once, on any supported PostgreSQL. Take it as it is, or keep only the functions'
-- signatures and write to your own tables.

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

CREATE TABLE ledger.sales (
    claim_id    uuid        PRIMARY KEY,
    state       text        NOT NULL CHECK (state IN ('committed', 'voided')),
    pool_id     text        NOT NULL,
    user_id     text        NOT NULL,
    slot_no     bigint      NOT NULL,
    resource_id uuid        NOT NULL,
    request_id  text,
    claimed_at  timestamptz,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ledger.sales IS 'One row for each claim whose fate is known. Insert only.';
-- A second guard against overselling that does not depend on anything upstream.
CREATE UNIQUE INDEX sales_slot_key ON ledger.sales (pool_id, slot_no) WHERE state = 'committed';
-- For ledger_claims(): a page costs what is on it, however old and large the table is.
CREATE INDEX sales_pool_key ON ledger.sales (pool_id, claim_id);
-- For a user's own sales.
CREATE INDEX sales_user_key ON ledger.sales (user_id) WHERE state = 'committed';

-- Who reads for a user sees that user's sales and nothing else; who has not said for whom sees nothing. The functions
-- below run as the owner, whom this does not bind.
ALTER TABLE ledger.sales ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_sales ON ledger.sales FOR SELECT TO ledger_reader
    USING (state = 'committed' AND user_id = nullif(current_setting('intake.user_id', true), ''));

CREATE FUNCTION ledger.record_once(payload jsonb, wanted text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known ledger.sales;
BEGIN
    INSERT INTO ledger.sales (claim_id, state, pool_id, user_id, slot_no, resource_id, request_id, claimed_at)
    VALUES ((payload ->> 'claim_id')::uuid, wanted, payload ->> 'pool_id', payload ->> 'user_id',
        (payload ->> 'slot_no')::bigint, (payload ->> 'resource_id')::uuid, payload ->> 'request_id',
        (payload ->> 'claimed_at')::timestamptz)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN wanted;
    END IF;
    SELECT s.* INTO known FROM ledger.sales s WHERE s.claim_id = (payload ->> 'claim_id')::uuid;
    IF NOT FOUND OR (known.pool_id, known.user_id, known.slot_no, known.resource_id) IS DISTINCT FROM
            (payload ->> 'pool_id', payload ->> 'user_id', (payload ->> 'slot_no')::bigint,
            (payload ->> 'resource_id')::uuid) THEN
        -- Another claim has this slot, or another sale has this claim_id. Neither can happen by itself.
        RETURN 'conflict';
    END IF;
    RETURN CASE WHEN known.state = 'committed' AND wanted = 'committed' THEN 'duplicate' ELSE known.state END;
END $$;
COMMENT ON FUNCTION ledger.record_once IS 'Insert a claim as committed or voided, or say what it already is.';

CREATE FUNCTION public.finalize_transaction(payload jsonb) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN ledger.record_once(payload, 'committed');
COMMENT ON FUNCTION public.finalize_transaction IS 'Commit one claim: committed, duplicate (already committed, the same), voided or conflict.';

CREATE FUNCTION ledger.commit_all(payloads jsonb) RETURNS TABLE (claim_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    fresh uuid[];
BEGIN
    -- Sorted: two calls with overlapping claims wait for each other and never deadlock.
    WITH inserted AS (
        INSERT INTO ledger.sales (claim_id, state, pool_id, user_id, slot_no, resource_id, request_id, claimed_at)
        SELECT i.claim_id, 'committed', i.pool_id, i.user_id, i.slot_no, i.resource_id, i.request_id, i.claimed_at
        FROM jsonb_to_recordset(payloads) AS i (claim_id uuid, pool_id text, user_id text, slot_no bigint,
            resource_id uuid, request_id text, claimed_at timestamptz)
        ORDER BY i.claim_id
        ON CONFLICT DO NOTHING
        RETURNING sales.claim_id)
    SELECT coalesce(array_agg(n.claim_id), '{}') INTO fresh FROM inserted n;
    -- A second statement, to see what others committed while the first waited for them.
    RETURN QUERY
    SELECT DISTINCT ON (i.claim_id) i.claim_id, CASE
        WHEN i.claim_id = ANY (fresh) THEN 'committed'
        WHEN s.claim_id IS NULL OR (s.pool_id, s.user_id, s.slot_no, s.resource_id)
            IS DISTINCT FROM (i.pool_id, i.user_id, i.slot_no, i.resource_id) THEN 'conflict'
        WHEN s.state = 'committed' THEN 'duplicate'
        ELSE s.state END
    FROM jsonb_to_recordset(payloads) AS i (claim_id uuid, pool_id text, user_id text, slot_no bigint, resource_id uuid)
    LEFT JOIN ledger.sales s USING (claim_id);
END $$;
COMMENT ON FUNCTION ledger.commit_all IS 'finalize_transactions() when every row is well-formed: two statements for any number of claims.';

CREATE FUNCTION public.finalize_transactions(payloads jsonb) RETURNS TABLE (claim_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    item jsonb;
BEGIN
    BEGIN
        RETURN QUERY SELECT a.claim_id, a.outcome FROM ledger.commit_all(payloads) a;
        RETURN;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        NULL; -- at least one row is bad: one by one, so that it fails alone
    END;
    FOR item IN SELECT e FROM jsonb_array_elements(payloads) e ORDER BY e ->> 'claim_id' LOOP
        BEGIN
            RETURN QUERY SELECT (item ->> 'claim_id')::uuid, ledger.record_once(item, 'committed');
        EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
            -- A row that can never be written is for a human, like any conflict. Without a claim_id it has no answer.
            IF item ->> 'claim_id' ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
                RETURN QUERY SELECT (item ->> 'claim_id')::uuid, 'conflict';
            END IF;
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION public.finalize_transactions IS 'Commit many claims; one outcome for each claim_id. A bad row is a conflict and fails alone.';

CREATE FUNCTION public.void_claim(payload jsonb) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN ledger.record_once(payload, 'voided');
COMMENT ON FUNCTION public.void_claim IS 'See to it that a claim never commits: voided, or committed if it already has. Only then may its slot be sold again.';

CREATE FUNCTION public.ledger_proof(pool_id text, OUT committed bigint, OUT voided bigint, OUT digest bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FILTER (WHERE s.state = 'committed'), count(*) FILTER (WHERE s.state = 'voided'),
        coalesce(bit_xor(hashtextextended(concat_ws('|', s.claim_id, s.user_id, s.slot_no), 0))
            FILTER (WHERE s.state = 'committed'), 0)
    FROM ledger.sales s WHERE s.pool_id = ledger_proof.pool_id;
$$;
COMMENT ON FUNCTION public.ledger_proof IS 'What the ledger has of a pool, comparable with intake.proof().';

CREATE FUNCTION public.ledger_claims(pool_id text, after uuid, max_claims int)
RETURNS TABLE (claim_id uuid, state text, user_id text, slot_no bigint, resource_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.claim_id, s.state, s.user_id, s.slot_no, s.resource_id FROM ledger.sales s
    WHERE s.pool_id = ledger_claims.pool_id
        AND s.claim_id > coalesce(ledger_claims.after, '00000000-0000-0000-0000-000000000000')
    ORDER BY s.claim_id LIMIT ledger_claims.max_claims;
$$;
COMMENT ON FUNCTION public.ledger_claims IS 'What the ledger has of a pool, page by page in the order of claim_id, each page behind the claim `after`.';

REVOKE ALL ON SCHEMA ledger FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.record_once, ledger.commit_all, public.finalize_transaction, public.finalize_transactions,
    public.void_claim, public.ledger_proof, public.ledger_claims FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.finalize_transaction, public.finalize_transactions, public.void_claim,
    public.ledger_proof, public.ledger_claims TO ledger_writer;
GRANT USAGE ON SCHEMA ledger TO ledger_reader;
GRANT SELECT ON ledger.sales TO ledger_reader;
