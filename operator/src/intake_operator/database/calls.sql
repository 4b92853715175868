-- What operator and bridges of this version call in DB1 and do not find there. A DB1 keeps the SQL that it was made
-- with, so it may be of an earlier or of a later version. A function may have more arguments, if they have defaults,
-- and more columns. No arguments at all (NULL) stand for a table. The admin API can do without what it does not find.
-- operator/tests/test_calls.py holds this list against the programs.
WITH calls (caller, name, arguments, columns) AS (
  SELECT v.caller, v.name, v.arguments::text[], v.columns::text[] FROM (VALUES
    ('operator', 'altered_roles', '{}', '{}'),
    ('operator', 'audit_log', '{text,integer,bigint}', '{id,at,action,actor,reason,detail}'),
    ('operator', 'claims_at', '{text,uuid[]}', '{key,claim_id,state,user_id,slot_nos,resource_ids}'),
    ('operator', 'configuration', '{text}', '{}'),
    ('operator', 'configure', '{text,jsonb}', '{}'),
    ('operator', 'connections', '{}', '{most,superusers,reserved,claimer_limit,claimers,taken}'),
    ('admin', 'dead_letter_payloads', '{text,bigint[],text,text}', '{msg_id,payload,validation}'),
    ('admin', 'dead_letters', '{text,integer,bigint,bigint[]}',
        '{msg_id,claim_id,user_id,seats,request_id,state,failures,reason,last_error,dead_at,claimed_at}'),
    ('admin', 'discard', '{text,bigint[],text,text,text,boolean}', '{}'),
    ('operator', 'end_overdue', '{}', '{}'),
    ('operator', 'end_restore', '{text}', '{}'),
    ('operator', 'engine_config', NULL, '{pool_id,pool_no}'),
    ('operator', 'engine_status', '{text}', '{}'),
    ('admin', 'find_slots', '{text,text[]}', '{seat,slot_no}'),
    ('operator', 'inventory', NULL, '{pool_no,slot_no}'),
    ('operator', 'known_logins', '{}', '{role_name,fingerprint}'),
    ('operator', 'limit_claimers', '{integer}', '{}'),
    ('operator', 'proof', '{text}', '{claims,released,expired,held,queued,dead,committed,voided,slots,digest}'),
    ('operator', 'reconcile', '{text}', '{invariant,detail}'),
    ('admin', 'replay', '{text,bigint[],text,text}', '{}'),
    ('operator', 'reset_role', '{name,timestamp with time zone}', '{}'),
    ('operator', 'restore', '{text,jsonb}', '{}'),
    ('admin', 'return_slots', '{text,bigint[],text,text}', '{slot_no,outcome}'),
    ('operator', 'seal', '{text,text}', '{}'),
    ('operator', 'seed', '{text}', '{}'),
    ('operator', 'set_login', '{name,text,text}', '{}'),
    ('operator', 'settled_claims', '{text,bigint,integer}',
        '{key,claim_id,state,user_id,slot_nos,resource_ids}'),
    ('operator', 'stock', '{text,bigint,uuid[],text[],jsonb[]}', '{}'),
    ('admin', 'withheld_slots', '{text,bigint,integer}', '{slot_no,resource_id,label,withheld_at,actor,reason}'),
    ('admin', 'withhold_slots', '{text,bigint[],text,text}', '{slot_no,outcome}'),
    ('bridge', 'acknowledge', '{text,bigint[],integer[],text[],jsonb[]}', '{}'),
    ('bridge', 'configuration', '{text}', '{}'),
    ('bridge', 'dead_letter', '{text,bigint[],integer[],text[],boolean[]}', '{}'),
    ('bridge', 'extend', '{text,bigint[],integer[]}', '{}'),
    ('bridge', 'give_back', '{text,bigint[],integer[],double precision[],text[]}', '{}'),
    ('bridge', 'housekeep', '{text}', '{}'),
    ('bridge', 'lease_tokens', '{text,integer}', '{lease,granted,wait_seconds,lease_seconds}'),
    ('bridge', 'mark_committing', '{text,bigint[],integer[]}', '{}'),
    ('bridge', 'mark_validated', '{text,bigint[],integer[],jsonb[]}', '{}'),
    ('bridge', 'read_batch', '{text,text,integer}',
        '{msg_id,read_ct,claim_id,user_id,request_id,claimed_at,seats,payload,validation,state,failures,release,headers}'),
    ('bridge', 'read_quarantined', '{text,text}',
        '{msg_id,read_ct,claim_id,user_id,request_id,claimed_at,seats,payload,validation,state,failures,release,headers}'),
    ('bridge', 'read_releases', '{text,text,integer}',
        '{msg_id,read_ct,claim_id,user_id,request_id,claimed_at,seats,payload,validation,state,failures,release,headers}'),
    ('bridge', 'record_metrics', '{text}', '{}'),
    ('bridge', 'report_worker', '{text,text,bigint,integer,jsonb}', '{}'),
    ('bridge', 'return_tokens', '{text,uuid,integer}', '{}')
  ) v (caller, name, arguments, columns)
)
SELECT c.caller, 'intake.' || c.name || coalesce('(' || array_to_string(c.arguments, ', ') || ')', '')
FROM calls c
WHERE NOT EXISTS (
    SELECT FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
    WHERE c.arguments IS NOT NULL AND p.pronamespace = to_regnamespace('intake') AND p.proname = c.name
      AND cardinality(c.arguments) BETWEEN p.pronargs - p.pronargdefaults AND p.pronargs
      AND (string_to_array(oidvectortypes(p.proargtypes), ', '))[:cardinality(c.arguments)] = c.arguments
      AND c.columns <@ ARRAY(
        SELECT u.name FROM unnest(p.proargnames, p.proargmodes) u (name, mode) WHERE u.mode IN ('o', 'b', 't')
        UNION ALL
        SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
) AND NOT EXISTS (
    SELECT FROM pg_class r
    WHERE c.arguments IS NULL AND r.relnamespace = to_regnamespace('intake') AND r.relname = c.name
      AND c.columns <@ ARRAY(
        SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped)
)
ORDER BY 1, 2
