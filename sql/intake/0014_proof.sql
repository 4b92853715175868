-- The proof that a sale is complete, and the comparison of DB1 with itself and with the ledger.
--
-- For monitor: proof, reconcile, settled_claims, claims_at. proof() and reconcile() read everything and are exact. Each
-- uses one snapshot, so both may be called while claims run.

CREATE FUNCTION intake_private.digest_of(what text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN substring(sha256(convert_to(what, 'UTF8')) FROM 1 FOR 8)::bigint;
COMMENT ON FUNCTION intake_private.digest_of IS
    'The first 64 bits of the SHA-256 of a text in UTF-8, as ledger_proof() computes it.';

-- Returns a table of one row: SELECT INTO or a scalar result would not get parallel workers.
CREATE FUNCTION intake.proof(pool_id text) RETURNS TABLE (claims bigint, committed bigint, voided bigint,
    released bigint, expired bigint, held bigint, queued bigint, dead bigint, slots bigint, digest bigint)
LANGUAGE plpgsql ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake_private.config_of(proof.pool_id);
BEGIN
    -- claims is counted in claimed_slots, apart from holds, queue and archive. If a message was lost, its claimed slots
    -- are still there and the sum no longer agrees. After a crash it disagrees until seed() has run. The digest is that
    -- of the ledger: over one text for each sold slot and each voided claim, in no order. Holds that ended and were
    -- deleted are in neither place any more, and counted in ended_holds.
    RETURN QUERY SELECT
        (SELECT count(*) FROM intake.claimed_slots cs WHERE cs.pool_no = config.pool_no AND cs.part_no = 1)
            + coalesce((SELECT e.expired + e.released FROM intake.ended_holds e WHERE e.pool_no = config.pool_no), 0),
        count(*) FILTER (WHERE i.place = 'committed'), count(*) FILTER (WHERE i.place = 'voided'),
        count(*) FILTER (WHERE i.place = 'released')
            + coalesce((SELECT e.released FROM intake.ended_holds e WHERE e.pool_no = config.pool_no), 0),
        count(*) FILTER (WHERE i.place = 'expired')
            + coalesce((SELECT e.expired FROM intake.ended_holds e WHERE e.pool_no = config.pool_no), 0),
        count(*) FILTER (WHERE i.place = 'held'), count(*) FILTER (WHERE i.place = 'queued'),
        count(*) FILTER (WHERE i.place = 'dead'),
        coalesce(sum(jsonb_array_length(i.message -> 'seats')) FILTER (WHERE i.place = 'committed'), 0)::bigint,
        mod(coalesce(sum(CASE i.place
            WHEN 'committed' THEN CASE jsonb_array_length(i.message -> 'seats')
                -- Most claims have one slot, and jsonb_array_elements() for each of them would take longer than the
                -- hash.
                WHEN 1 THEN intake_private.digest_of(concat_ws('|', i.message ->> 'claim_id', i.message ->> 'user_id',
                    i.message -> 'seats' -> 0 ->> 'slot_no', i.message -> 'seats' -> 0 ->> 'resource_id'))
                ELSE (SELECT sum(intake_private.digest_of(concat_ws('|', i.message ->> 'claim_id',
                        i.message ->> 'user_id', s ->> 'slot_no', s ->> 'resource_id')))
                    FROM jsonb_array_elements(i.message -> 'seats') s) END
            WHEN 'voided' THEN intake_private.digest_of(
                concat_ws('|', 'voided', i.message ->> 'claim_id', i.message ->> 'user_id')) END), 0),
            9223372036854775808)::bigint
    FROM intake.intents i WHERE i.message ->> 'pool_id' = config.pool_id;
END $$;
COMMENT ON FUNCTION intake.proof IS
    'How every claim of a pool was settled, in claims but for `slots`, which are sold. Complete when claims = '
    'committed + voided + released + expired and ledger_proof() has the same committed, voided, slots and digest. '
    'Raises IE001 for an unknown pool.';

-- One query, however long: all invariants are judged by one snapshot.
CREATE FUNCTION intake.reconcile(pool_id text) RETURNS TABLE (invariant text, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(reconcile.pool_id);
BEGIN
    RETURN QUERY
    WITH intent AS MATERIALIZED (
        SELECT i.place, i.msg_id, i.message ->> 'claim_id' AS claim_id, i.message ->> 'user_id' AS user_id,
            i.message ->> 'request_id' AS request_id, i.place IN ('held', 'queued', 'dead', 'committed') AS has_slots,
            CASE jsonb_typeof(i.message -> 'seats') WHEN 'array' THEN i.message -> 'seats' ELSE '[]' END AS seats
        FROM intake.intents i WHERE i.message ->> 'pool_id' = config.pool_id),
    slot AS MATERIALIZED (
        SELECT s.place, s.msg_id, s.claim_id, s.user_id, s.request_id, s.has_slots,
            jsonb_array_length(s.seats) AS parts, s.part_no, (s.seats -> s.part_no - 1 ->> 'slot_no')::bigint AS slot_no
        FROM (SELECT i.*, generate_series(1, jsonb_array_length(i.seats)) AS part_no FROM intent i) s),
    claimed AS MATERIALIZED (
        SELECT cs.*, cs.claim_id::text AS claim, cs.status <> 'V' AS has_slots,
            coalesce(cs.was_slot_no, cs.slot_no) AS made_for
        FROM intake.claimed_slots cs WHERE cs.pool_no = config.pool_no),
    pool AS ( -- without a hot row the claimed slots are not built, and are not checked
        SELECT p.*, t.frontier FROM intake.pools p LEFT JOIN intake.number_progress t USING (pool_no)
        WHERE p.pool_no = config.pool_no)
    SELECT 'I1', format('slot %s has the claims %s', i.slot_no, string_agg(i.claim_id, ', '))
    FROM slot i WHERE i.has_slots GROUP BY i.slot_no HAVING count(*) > 1
    UNION ALL
    SELECT 'I1', format('claim %s has slot %s, and the inventory has %s', i.claim_id, i.slot_no, config.inventory_size)
    FROM slot i WHERE i.has_slots AND i.slot_no NOT BETWEEN 1 AND config.inventory_size
    UNION ALL
    SELECT 'I2', format('claim %s is in %s places: %s', i.claim_id, count(*), string_agg(i.place, ', '))
    FROM intent i GROUP BY i.claim_id HAVING count(*) > 1
    UNION ALL
    SELECT 'I2', format('claim %s (%s) has no slots', i.claim_id, i.place)
    FROM intent i WHERE i.seats = '[]'
    UNION ALL
    SELECT 'I2', format('claim %s for slot %s, part %s of %s, is in neither holds, queue, dead letters nor archive',
        cs.claim, cs.made_for, cs.part_no, cs.parts)
    FROM pool CROSS JOIN claimed cs
    WHERE cs.status <> 'W' AND NOT EXISTS (SELECT FROM slot i WHERE i.has_slots = cs.has_slots
        AND i.claim_id = cs.claim AND i.slot_no = cs.made_for AND i.part_no = cs.part_no AND i.parts = cs.parts
        AND i.msg_id = cs.msg_id AND i.user_id = cs.user_id AND i.request_id IS NOT DISTINCT FROM cs.request_id)
    UNION ALL
    SELECT 'I2', format('claim %s (%s) has no claimed slot %s', i.claim_id, i.place, i.slot_no)
    FROM pool CROSS JOIN slot i
    WHERE NOT EXISTS (SELECT FROM claimed cs WHERE cs.claim = i.claim_id AND cs.made_for = i.slot_no
        AND cs.has_slots = i.has_slots)
    UNION ALL
    SELECT 'I3', format('claim %s is committed and voided', i.claim_id)
    FROM intent i GROUP BY i.claim_id HAVING bool_or(i.place = 'committed') AND bool_or(i.place = 'voided')
    UNION ALL
    SELECT 'I6', format('slot %s is %s, its claim %s is %s', cs.slot_no,
        CASE cs.status WHEN 'C' THEN 'CONSUMED' WHEN 'H' THEN 'HELD' ELSE 'RESERVED' END, cs.claim, i.place)
    FROM pool CROSS JOIN claimed cs JOIN slot i ON i.claim_id = cs.claim AND i.slot_no = cs.made_for AND i.has_slots
    WHERE cs.has_slots AND ((cs.status = 'C') <> (i.place = 'committed') OR (cs.status = 'H') <> (i.place = 'held'))
    UNION ALL
    SELECT 'I6', format('slot %s is withheld, and nothing keeps it off sale', w.slot_no)
    FROM pool JOIN intake.withheld w USING (pool_no)
    WHERE NOT EXISTS (SELECT FROM claimed cs WHERE cs.slot_no = w.slot_no AND cs.status = 'W')
    UNION ALL
    SELECT 'I6', format('slot %s is WITHHELD, and intake.withheld does not have it', cs.slot_no)
    FROM pool CROSS JOIN claimed cs
    WHERE cs.status = 'W' AND NOT EXISTS (SELECT FROM intake.withheld w
        WHERE w.pool_no = config.pool_no AND w.slot_no = cs.slot_no)
    UNION ALL
    SELECT 'I6', format('slot %s is on the free list, and %s has it', f.slot_no,
        CASE cs.status WHEN 'W' THEN 'withholding' ELSE 'claim ' || cs.claim END)
    FROM pool JOIN intake.free_numbers f USING (pool_no) JOIN claimed cs ON cs.slot_no = f.slot_no
    UNION ALL
    SELECT 'I6',
        format('slot %s is neither claimed nor on the free list, and every number up to %s must be', g, pool.frontier)
    FROM pool CROSS JOIN generate_series(1, pool.frontier) g
    WHERE NOT EXISTS (SELECT FROM claimed cs WHERE cs.slot_no = g)
        AND NOT EXISTS (SELECT FROM intake.free_numbers f WHERE f.pool_no = pool.pool_no AND f.slot_no = g)
    UNION ALL
    SELECT 'I6', format('%s slots for a capacity of %s', n.slots, pool.capacity)
    FROM pool CROSS JOIN (SELECT count(*) AS slots FROM intake.slots s WHERE s.pool_no = config.pool_no) n
    WHERE n.slots <> pool.capacity
    UNION ALL
    SELECT 'I7', format('request %s of user %s made claims %s', i.request_id, i.user_id, string_agg(i.claim_id, ', '))
    FROM intent i WHERE i.request_id IS NOT NULL
    GROUP BY i.user_id, i.request_id HAVING count(DISTINCT i.claim_id) > 1;
END $$;
COMMENT ON FUNCTION intake.reconcile IS
    'Violations inside DB1, a row for each, by the name of the invariant (I1, I2, I3, I6, I7). No row: consistent. '
    'Raises IE001 for an unknown pool.';

CREATE TYPE intake.compared_claim AS (key bigint, claim_id uuid, state text, user_id text, slot_nos bigint[],
    resource_ids uuid[]);
COMMENT ON TYPE intake.compared_claim IS
    'A claim for the comparison with the ledger. key is the slot_no of the row of its first slot, negative once it is '
    'voided: pages are read in its order. slot_nos and resource_ids are parallel, in the order of the slots.';

CREATE FUNCTION intake_private.ready_config(pool_id text) RETURNS intake.engine_config
LANGUAGE plpgsql STABLE AS $$
DECLARE
    config intake.engine_config := intake_private.config_of(ready_config.pool_id);
BEGIN
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        RAISE EXCEPTION 'pool % is not ready', quote_literal(ready_config.pool_id) USING ERRCODE = 'IE007',
            HINT = 'Its claimed slots are being (re)built: ask again when engine_status() says ready.';
    END IF;
    RETURN config;
END $$;
COMMENT ON FUNCTION intake_private.ready_config IS
    'The configuration of a pool whose claimed slots are complete. Raises IE001 for an unknown pool, IE007 while it is '
    'being (re)built.';

CREATE FUNCTION intake_private.slots_of(claimed intake.claimed_slots) RETURNS bigint[]
LANGUAGE sql STABLE
-- The other slots of a claim are known to its message only.
RETURN CASE WHEN claimed.parts = 1 THEN ARRAY[coalesce(claimed.was_slot_no, claimed.slot_no)]
    ELSE ARRAY(SELECT s.slot_no FROM intake_private.seats_in(intake_private.message_of(claimed)) s
        ORDER BY s.slot_no) END;
COMMENT ON FUNCTION intake_private.slots_of IS 'All slots of the claim that has this one, in their order.';

CREATE FUNCTION intake.settled_claims(pool_id text, after bigint, max_claims int) RETURNS SETOF intake.compared_claim
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    config intake.engine_config := intake_private.ready_config(settled_claims.pool_id);
BEGIN
    RETURN QUERY
    SELECT cs.slot_no, cs.claim_id, CASE cs.status WHEN 'C' THEN 'committed' ELSE intake_private.state_of(cs) END,
        cs.user_id, intake_private.slots_of(cs), NULL::uuid[]
    FROM intake.claimed_slots cs
    WHERE cs.pool_no = config.pool_no AND cs.status IN ('C', 'V') AND cs.part_no = 1
        AND cs.slot_no > coalesce(settled_claims.after, -9223372036854775808)
    ORDER BY cs.slot_no LIMIT settled_claims.max_claims;
END $$;
COMMENT ON FUNCTION intake.settled_claims IS
    'Settled claims (committed, voided, released or expired), page by page after the key `after` (NULL: from the '
    'first), without resource ids. Raises IE001 for an unknown pool, IE007 while it is being (re)built.';

CREATE FUNCTION intake.claims_at(pool_id text, claim_ids uuid[]) RETURNS SETOF intake.compared_claim
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    config          intake.engine_config := intake_private.ready_config(claims_at.pool_id);
    resource_prefix text := CASE WHEN NOT config.own_resources
        THEN intake_private.resource_prefix_of(config.pool_id) END;
BEGIN
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT a AS claim_id, intake_private.first_slot_of(a) AS slot_no FROM unnest(claims_at.claim_ids) a),
    -- Almost all are committed and found by the key of their first slot; the others are looked up one by one.
    sold AS MATERIALIZED (
        SELECT cs.* FROM asked a
        JOIN intake.claimed_slots cs ON cs.pool_no = config.pool_no AND cs.slot_no = a.slot_no
            AND cs.claim_id = a.claim_id
        WHERE cs.status = 'C'),
    found AS (
        SELECT s::intake.claimed_slots AS claimed FROM sold s
        UNION ALL
        SELECT cs FROM asked a CROSS JOIN LATERAL intake_private.claimed_slot_of(config.pool_no, a.claim_id) cs
        WHERE cs.claim_id IS NOT NULL AND NOT EXISTS (SELECT FROM sold s WHERE s.claim_id = a.claim_id))
    SELECT (f.claimed).slot_no, (f.claimed).claim_id,
        CASE (f.claimed).status WHEN 'C' THEN 'committed' ELSE intake_private.state_of(f.claimed) END,
        (f.claimed).user_id, s.slot_nos,
        ARRAY(SELECT intake_private.resource_at(resource_prefix, config.pool_no, u.slot_no)
            FROM unnest(s.slot_nos) WITH ORDINALITY AS u (slot_no, n) ORDER BY u.n)
    FROM found f CROSS JOIN LATERAL (SELECT intake_private.slots_of(f.claimed) AS slot_nos OFFSET 0) s;
END $$;
COMMENT ON FUNCTION intake.claims_at IS
    'Where these claims are now; no row for a claim that this pool does not have. Raises IE001 for an unknown pool, '
    'IE007 while it is being (re)built.';

GRANT EXECUTE ON FUNCTION intake.proof, intake.reconcile, intake.settled_claims, intake.claims_at TO monitor;
