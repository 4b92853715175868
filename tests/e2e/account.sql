-- Compares the answers that the crowd recorded with the rows of the ledger. The record is loaded first, into `record` (one
-- JSON document a line); `:pool` names the pool. Each row of `violation` is a broken invariant.

CREATE TEMP VIEW answer AS
SELECT line->>'request_id' AS request_id, line->>'user_id' AS user_id, line->>'outcome' AS outcome,
    (line->>'claim_id')::uuid AS claim_id, (SELECT array_agg((s->>'slot_no')::bigint ORDER BY (s->>'slot_no')::bigint)
        FROM jsonb_array_elements(line->'seats') s) AS slot_nos,
    (SELECT array_agg((s->>'resource_id')::uuid ORDER BY (s->>'slot_no')::bigint)
        FROM jsonb_array_elements(line->'seats') s) AS resource_ids
FROM record;

-- A claim that a buyer was told of. `replayed` counts: it is the answer to a request whose first answer was lost.
CREATE TEMP VIEW acknowledged AS
SELECT DISTINCT claim_id, user_id, request_id, slot_nos, resource_ids FROM answer
WHERE outcome IN ('claimed', 'held', 'replayed');

-- Released before a bridge had read it. The ledger never has a row for it.
CREATE TEMP VIEW released AS
SELECT DISTINCT claim_id FROM answer WHERE outcome = 'released';

CREATE TEMP VIEW sale AS
SELECT c.claim_id, c.state, c.user_id, c.request_id, s.slot_nos, s.resource_ids
FROM ledger.claims c
CROSS JOIN LATERAL (SELECT array_agg(x.slot_no ORDER BY x.slot_no) AS slot_nos,
        array_agg(x.resource_id ORDER BY x.slot_no) AS resource_ids
    FROM ledger.sold_slots x WHERE x.claim_id = c.claim_id) s
WHERE c.pool_id = :'pool';

CREATE TEMP VIEW violation AS
SELECT 'I1 oversell' AS invariant, format('slot %s is sold %s times', slot_no, count(*)) AS detail
FROM ledger.sold_slots WHERE pool_id = :'pool' GROUP BY slot_no HAVING count(*) > 1
UNION ALL
SELECT 'I2 lost', format('claim %s of %s is in the ledger %s times', a.claim_id, a.user_id, count(s.claim_id))
FROM acknowledged a LEFT JOIN sale s USING (claim_id) WHERE a.claim_id NOT IN (SELECT claim_id FROM released)
GROUP BY a.claim_id, a.user_id HAVING count(s.claim_id) <> 1
UNION ALL
SELECT 'I2 released and in the ledger', format('claim %s', claim_id)
FROM released JOIN sale USING (claim_id)
UNION ALL
SELECT 'I3 committed and voided', format('claim %s', claim_id)
FROM sale GROUP BY claim_id HAVING count(DISTINCT state) > 1
UNION ALL
SELECT 'I4 another claim than acknowledged', format('claim %s', a.claim_id)
FROM acknowledged a JOIN sale s USING (claim_id)
WHERE (a.user_id, a.request_id) IS DISTINCT FROM (s.user_id, s.request_id)
    OR s.state = 'committed' AND (a.slot_nos, a.resource_ids) IS DISTINCT FROM (s.slot_nos, s.resource_ids)
UNION ALL
-- A request without an answer may have a claim that was never acknowledged; no other request may.
SELECT 'I4 claim without a request', format('claim %s of %s', s.claim_id, s.user_id)
FROM sale s LEFT JOIN acknowledged a USING (claim_id)
WHERE a.claim_id IS NULL AND NOT EXISTS (SELECT FROM answer q
    WHERE q.request_id = s.request_id AND q.user_id = s.user_id AND q.outcome IN ('unknown', 'error'))
UNION ALL
SELECT 'I7 two claims for one request', format('request %s', request_id)
FROM (SELECT request_id, claim_id FROM acknowledged UNION SELECT request_id, claim_id FROM sale) every
GROUP BY request_id HAVING count(DISTINCT claim_id) > 1;

-- The last line of the demo. Duplicated: a slot sold twice, or a request with more than one claim.
CREATE TEMP VIEW settlement AS
SELECT count(*) AS acknowledged,
    count(*) FILTER (WHERE s.state = 'committed') AS committed,
    count(*) FILTER (WHERE s.state = 'voided') AS voided,
    count(*) FILTER (WHERE s.claim_id IS NULL AND a.claim_id IN (SELECT claim_id FROM released)) AS released,
    (SELECT count(*) FROM violation WHERE invariant ~ '^(I1|I3|I7)') AS duplicated
FROM (SELECT DISTINCT claim_id FROM acknowledged) a LEFT JOIN sale s USING (claim_id);
