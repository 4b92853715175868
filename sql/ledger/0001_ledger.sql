-- The ledger: a reference for the database that keeps the sales (DB2).
--
-- A claim has one fate, decided here, once: the first call that inserts its claim_id says committed or voided, and
-- every later call gets that answer, with the same receipt. So retries, lost replies and two workers with one message
-- are harmless. What is sold is a row for each slot. One call writes both, all rows of a claim or none.
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

CREATE SEQUENCE ledger.order_numbers;
COMMENT ON SEQUENCE ledger.order_numbers IS 'The order numbers of the receipts. It has gaps, as every sequence has.';

CREATE TABLE ledger.claims (
    claim_id    uuid        PRIMARY KEY,
    pool_id     text        NOT NULL,
    user_id     text        NOT NULL,
    request_id  text,
    claimed_at  timestamptz,
    state       text        NOT NULL CHECK (state IN ('committed', 'voided')),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- What the caller sent along, what the validator added, what this ledger answered. A voided claim has none of them:
    -- nothing was sold, so what they say about a person is not kept.
    payload     jsonb,
    validation  jsonb,
    receipt     jsonb
);
COMMENT ON TABLE ledger.claims IS 'One row for each claim whose fate is known. Insert only.';
-- For ledger_claims(): a page costs the same, however large the table is.
CREATE INDEX claims_pool_key ON ledger.claims (pool_id, claim_id);
-- For the sales of one user.
CREATE INDEX claims_user_key ON ledger.claims (user_id) WHERE state = 'committed';

CREATE TABLE ledger.sold_slots (
    pool_id     text   NOT NULL,
    slot_no     bigint NOT NULL,
    claim_id    uuid   NOT NULL,
    resource_id uuid   NOT NULL,
    label       text,
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

CREATE FUNCTION ledger.outcome_of(claim jsonb) RETURNS TABLE (outcome text, receipt jsonb)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT k.outcome, CASE WHEN k.outcome = 'committed' THEN c.receipt END
    FROM ledger.claims c
    CROSS JOIN LATERAL (SELECT CASE
        WHEN (c.pool_id, c.user_id) IS DISTINCT FROM (claim ->> 'pool_id', claim ->> 'user_id') THEN 'conflict'
        WHEN c.state = 'committed' AND ARRAY(
                SELECT concat_ws(' ', s.slot_no, s.resource_id) FROM ledger.sold_slots s
                WHERE s.claim_id = c.claim_id ORDER BY 1)
            IS DISTINCT FROM ARRAY(
                SELECT concat_ws(' ', (e ->> 'slot_no')::bigint, (e ->> 'resource_id')::uuid)
                FROM jsonb_array_elements(claim -> 'seats') e ORDER BY 1)
            THEN 'conflict'
        ELSE c.state END AS outcome) k
    WHERE c.claim_id = (claim ->> 'claim_id')::uuid
    LIMIT 1; -- so that it is looked up by its key, whatever the statistics said when the plan was made
$$;
COMMENT ON FUNCTION ledger.outcome_of IS
    'committed with its receipt, or voided; conflict if the claim with this id is another one, by its pool, its user '
    'or its seats. No row if there is none.';

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

CREATE FUNCTION ledger.commit_all(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text, receipt jsonb)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    inserted uuid[];
    receipts jsonb[];
    total    bigint;
    seats    bigint;
    fewest   int;
    sold     bigint;
BEGIN
    -- First all claims in the order of their ids, then all slots in theirs (their sort begins when every claim is
    -- there): two calls that overlap wait for each other and never deadlock.
    WITH items AS (
        SELECT r.* FROM jsonb_to_recordset(claims) AS r (claim_id uuid, pool_id text, user_id text, request_id text,
            claimed_at timestamptz, seats jsonb, payload jsonb, validation jsonb)),
    new_claims AS (
        INSERT INTO ledger.claims (claim_id, pool_id, user_id, request_id, claimed_at, state, payload, validation,
            receipt)
        SELECT i.claim_id, i.pool_id, i.user_id, i.request_id, i.claimed_at, 'committed', i.payload, i.validation,
            jsonb_build_object('order_no', nextval('ledger.order_numbers'))
        FROM items i
        ORDER BY i.claim_id
        ON CONFLICT DO NOTHING
        RETURNING claims.claim_id, claims.receipt),
    new_slots AS (
        INSERT INTO ledger.sold_slots (pool_id, slot_no, claim_id, resource_id, label)
        SELECT s.pool_id, (s.seat ->> 'slot_no')::bigint, s.claim_id, (s.seat ->> 'resource_id')::uuid,
            s.seat ->> 'label'
        FROM (SELECT i.pool_id, i.claim_id, i.seats -> generate_series(0, jsonb_array_length(i.seats) - 1) AS seat
            FROM items i WHERE i.claim_id IN (SELECT n.claim_id FROM new_claims n)) s
        ORDER BY 1, 2, 3
        ON CONFLICT DO NOTHING
        RETURNING slot_no)
    SELECT n.ids, n.receipts, i.claims, i.seats, i.fewest, (SELECT count(*) FROM new_slots)
    INTO inserted, receipts, total, seats, fewest, sold
    FROM (SELECT coalesce(array_agg(c.claim_id), '{}') AS ids, array_agg(c.receipt) AS receipts FROM new_claims c) n
    CROSS JOIN (SELECT count(*) AS claims, sum(jsonb_array_length(r.seats)) AS seats,
        min(coalesce(jsonb_array_length(r.seats), 0)) AS fewest FROM items r) i;
    IF fewest < 1 THEN
        RAISE EXCEPTION 'a claim has no seats' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF cardinality(inserted) = total AND sold = seats THEN
        RETURN QUERY SELECT n.claim_id, 'committed', n.receipt
            FROM unnest(inserted, receipts) AS n (claim_id, receipt);
    ELSE
        RETURN QUERY SELECT a.claim_id, a.outcome, a.receipt FROM ledger.undo_incomplete(claims, inserted) a;
    END IF;
END $$;
COMMENT ON FUNCTION ledger.commit_all IS
    'finalize_transactions() where every claim is well formed and there once: a few statements for any number of them.';

CREATE FUNCTION ledger.undo_incomplete(claims jsonb, inserted uuid[])
RETURNS TABLE (claim_id uuid, outcome text, receipt jsonb)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    refused uuid[];
    claim   jsonb;
BEGIN
    IF (SELECT count(r.claim_id) > count(DISTINCT r.claim_id) FROM jsonb_to_recordset(claims) AS r (claim_id uuid)) THEN
        RAISE EXCEPTION 'a claim is there twice' USING ERRCODE = 'unique_violation';
    END IF;
    refused := ARRAY(SELECT r.claim_id FROM jsonb_to_recordset(claims) AS r (claim_id uuid, seats jsonb)
        WHERE r.claim_id = ANY (inserted) AND jsonb_array_length(r.seats)
            > (SELECT count(*) FROM ledger.sold_slots s WHERE s.claim_id = r.claim_id));
    IF cardinality(refused) > 0 THEN
        DELETE FROM ledger.sold_slots s WHERE s.claim_id = ANY (refused);
        DELETE FROM ledger.claims c WHERE c.claim_id = ANY (refused);
    END IF;
    IF cardinality(refused) > 1 THEN
        -- One of these may have had the slot of another. None of them waits now: what this call did not get is sold.
        FOR claim IN SELECT e FROM jsonb_array_elements(claims) e
            WHERE (e ->> 'claim_id')::uuid = ANY (refused) ORDER BY e ->> 'claim_id'
        LOOP
            RETURN QUERY SELECT a.claim_id, a.outcome, a.receipt FROM ledger.commit_all(jsonb_build_array(claim)) a;
        END LOOP;
    END IF;
    PERFORM ledger.wait_for_standby();
    -- A new statement, to see what others committed while the insertion waited for them.
    RETURN QUERY
    SELECT i.claim_id, CASE WHEN k.outcome IS NULL THEN 'conflict'
        WHEN k.outcome = 'committed' AND n.claim_id IS NULL THEN 'duplicate' ELSE k.outcome END, k.receipt
    FROM (SELECT e, (e ->> 'claim_id')::uuid AS claim_id FROM jsonb_array_elements(claims) e) i
    LEFT JOIN unnest(inserted) AS n (claim_id) USING (claim_id)
    LEFT JOIN LATERAL ledger.outcome_of(i.e) k ON true
    WHERE cardinality(refused) < 2 OR i.claim_id <> ALL (refused);
END $$;
COMMENT ON FUNCTION ledger.undo_incomplete IS
    'The rest of commit_all() where not every claim was new, or not every slot free: all slots of a claim or none. '
    'Deletes the inserted claims that did not get all of their slots, and answers for every claim.';

CREATE FUNCTION public.finalize_transaction(claim jsonb) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('outcome', a.outcome, 'receipt', a.receipt)
    FROM ledger.commit_all(jsonb_build_array(claim)) a;
$$;
COMMENT ON FUNCTION public.finalize_transaction IS
    'Commit one claim, all of its seats or none, given as a JSON object with claim_id, pool_id, user_id, request_id, '
    'claimed_at, seats (an array of objects with slot_no, resource_id, label), payload, validation. Returns an object '
    'with outcome and receipt. The outcome is committed, duplicate (committed before, and the same: the receipt is '
    'that of the first call), voided, or conflict (the claim_id or one of the slots belongs to another sale). Raises '
    'the error of PostgreSQL for a claim that cannot be written.';

CREATE FUNCTION public.finalize_transactions(claims jsonb) RETURNS TABLE (claim_id uuid, outcome text, receipt jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    claim   jsonb;
    good    jsonb := '[]';
    code    text;
    problem text;
BEGIN
    BEGIN
        RETURN QUERY SELECT a.claim_id, a.outcome, a.receipt FROM ledger.commit_all(claims) a;
        RETURN;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        NULL; -- at least one claim is bad: find out which
    END;
    FOR claim IN SELECT DISTINCT ON (lower(e ->> 'claim_id')) e FROM jsonb_array_elements(claims) e
        ORDER BY lower(e ->> 'claim_id')
    LOOP
        BEGIN
            PERFORM ledger.commit_all(jsonb_build_array(claim));
            -- Undone, with its locks: all that can be written are written together, in the order that cannot deadlock.
            RAISE EXCEPTION USING ERRCODE = 'LG001', MESSAGE = 'this claim can be written';
        EXCEPTION
            WHEN SQLSTATE 'LG001' THEN
                good := good || claim;
            WHEN data_exception OR integrity_constraint_violation THEN
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, problem = MESSAGE_TEXT;
                -- It needs a person, like any conflict. Without a claim_id it has no answer.
                IF claim ->> 'claim_id' ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
                    RETURN QUERY SELECT (claim ->> 'claim_id')::uuid, 'conflict', NULL::jsonb;
                END IF;
        END;
    END LOOP;
    -- None can be written: the cause may be the table and not the claims, and the caller needs the error.
    IF good = '[]' AND code IS NOT NULL THEN
        RAISE EXCEPTION '%', problem USING ERRCODE = code;
    END IF;
    RETURN QUERY SELECT a.claim_id, a.outcome, a.receipt FROM ledger.commit_all(good) a;
END $$;
COMMENT ON FUNCTION public.finalize_transactions IS
    'Commit many claims, given as a JSON array of the objects of finalize_transaction(). One outcome, with the receipt '
    'of a committed claim, for each claim_id, in no order. A bad claim among others is a conflict. Where none can be '
    'written, raises the error of the last one.';

CREATE FUNCTION public.void_claim(claim jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ledger.claims (claim_id, pool_id, user_id, request_id, claimed_at, state)
    VALUES ((claim ->> 'claim_id')::uuid, claim ->> 'pool_id', claim ->> 'user_id', claim ->> 'request_id',
        (claim ->> 'claimed_at')::timestamptz, 'voided')
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN 'voided';
    END IF;
    PERFORM ledger.wait_for_standby();
    RETURN (SELECT k.outcome FROM ledger.outcome_of(claim) k);
END $$;
COMMENT ON FUNCTION public.void_claim IS
    'Make sure that a claim is never committed. Returns voided, committed if it was too late, or conflict if the claim '
    'with this id is another one. Only after voided may its slots be sold again.';

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
REVOKE ALL ON FUNCTION ledger.outcome_of, ledger.wait_for_standby, ledger.commit_all, ledger.undo_incomplete,
    ledger.digest_of, public.finalize_transaction, public.finalize_transactions, public.void_claim, public.ledger_proof,
    public.ledger_claims FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.finalize_transaction, public.finalize_transactions, public.void_claim,
    public.ledger_proof, public.ledger_claims TO ledger_writer;
GRANT USAGE ON SCHEMA ledger TO ledger_reader;
GRANT SELECT ON ledger.claims, ledger.sold_slots TO ledger_reader;
