-- Slots, the claims on them, holds, the queues, and how resource ids and claim ids are made.
--
-- The primary key of claimed_slots is the proof against overselling: no function can claim a slot twice. Everything
-- UNLOGGED can be derived from what is LOGGED: configuration, queue, dead letters, archives (0006_seed.sql).
--
-- No function here is for callers. monitor may read the view allocations.

-- Nothing that claims write may be lost in a crash, so both queues are LOGGED.
SELECT pgmq.create('intake_queue');
SELECT pgmq.create('intake_dlq');
-- Every row is updated a few times (read, marked) and then deleted: leave room on the pages, and vacuum after a
-- number of rows, not after a share of the table.
ALTER TABLE pgmq.q_intake_queue SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
-- pgmq uses this index to find old archive rows. We never search by that time, and each acknowledgement would have to
-- update it.
DROP INDEX pgmq.archived_at_idx_intake_queue;
REVOKE ALL ON ALL TABLES IN SCHEMA pgmq FROM PUBLIC;

CREATE UNLOGGED TABLE intake.slots (
    pool_no     int    NOT NULL,
    slot_no     bigint NOT NULL,
    resource_id uuid   NOT NULL,
    label       text,
    attributes  jsonb,
    PRIMARY KEY (pool_no, slot_no)
);
CREATE UNIQUE INDEX slots_resource_key ON intake.slots (pool_no, resource_id);
CREATE UNIQUE INDEX slots_label_key ON intake.slots (pool_no, label) WHERE label IS NOT NULL;
COMMENT ON TABLE intake.slots IS
    'The inventory that is for sale, one row for each slot. Written by seed(), never updated.';

-- No CHECK: every INSERT would parse and evaluate it. reconcile() verifies the rows instead.
CREATE UNLOGGED TABLE intake.claimed_slots (
    slot_no     bigint      NOT NULL,
    msg_id      bigint      NOT NULL,
    locked_at   timestamptz NOT NULL,
    claim_id    uuid        NOT NULL,
    pool_no     int         NOT NULL,
    part_no     smallint    NOT NULL,
    parts       smallint    NOT NULL,
    status      "char"      NOT NULL,
    user_id     text        NOT NULL,
    unique_key  text        COLLATE "C",
    request_id  text,
    was_slot_no bigint
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    -- No autovacuum or analyze while the table is small: a session keeps the plan that it made for a few rows, and
    -- would then scan the table when it has grown.
    autovacuum_vacuum_insert_threshold = 20000, autovacuum_analyze_threshold = 20000);
COMMENT ON TABLE intake.claimed_slots IS
    'The slots of every claim that was made, a row for each slot, and the slots that are withheld from sale. A row that '
    'is not voided has the slot of its key, which no other claim can then take.';
COMMENT ON COLUMN intake.claimed_slots.slot_no IS
    'The slot that is taken. Once the claim is voided it is voided_key(msg_id, part_no): the slot is free, and the row '
    'still answers its request.';
COMMENT ON COLUMN intake.claimed_slots.was_slot_no IS 'The slot that a voided claim had; NULL otherwise.';
COMMENT ON COLUMN intake.claimed_slots.unique_key IS
    'Unique among the slots of a user. With claimsPerUser it is a number that grows with each slot (1, 2, 3 …): a claim '
    'that takes the next key has seen all claims before it, so neither the limit nor a request can be exceeded. Without '
    'it, it is the request_id with the rank of the slot in its claim, or NULL if there is no request_id.';
COMMENT ON COLUMN intake.claimed_slots.part_no IS 'Which of the slots of its claim, from 1.';
COMMENT ON COLUMN intake.claimed_slots.parts IS 'How many slots the claim has.';
COMMENT ON COLUMN intake.claimed_slots.status IS
    'H = held (waits for confirm_claim), R = RESERVED (not settled yet), C = CONSUMED (committed to the ledger), '
    'V = voided, released or expired, W = withheld from sale (no claim).';
COMMENT ON COLUMN intake.claimed_slots.msg_id IS 'The id of the message of its claim on the queue.';

CREATE FUNCTION intake_private.voided_key(msg_id bigint, part_no int) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN -(msg_id * 128 + part_no); -- a claim has at most 100 slots
COMMENT ON FUNCTION intake_private.voided_key IS
    'Under which slot_no a slot of a voided claim is stored: negative, and unique for each slot of each claim.';

-- What a claim is until it is confirmed. Not on the queue: there it would count as depth, and bridges would read it.
CREATE TABLE intake.holds (
    claim_id   uuid        PRIMARY KEY,
    pool_no    int         NOT NULL,
    msg_id     bigint      NOT NULL,
    expires_at timestamptz NOT NULL,
    extended   boolean     NOT NULL DEFAULT false,
    ended      text,
    ended_at   timestamptz,
    message    jsonb       NOT NULL,
    headers    jsonb
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_threshold = 20000, autovacuum_analyze_threshold = 20000); -- as claimed_slots
CREATE INDEX holds_expiry ON intake.holds (pool_no, expires_at) WHERE ended IS NULL;
CREATE INDEX holds_ended ON intake.holds (pool_no, ended_at) WHERE ended IS NOT NULL;
COMMENT ON TABLE intake.holds IS
    'Claims that wait for confirm_claim(), which moves their messages to the queue; and, for some minutes, those that '
    'ended without it. LOGGED: a hold survives a crash.';
COMMENT ON COLUMN intake.holds.message IS 'What confirm_claim() puts on the queue.';
COMMENT ON COLUMN intake.holds.msg_id IS
    'What claimed_slots has as msg_id until the hold is confirmed. A confirmed claim gets a new id on the queue.';
COMMENT ON COLUMN intake.holds.ended_at IS
    'When the hold ended, or when it was last found to be needed (forget_ended_holds()).';
COMMENT ON COLUMN intake.holds.ended IS 'NULL while the hold can be confirmed, otherwise expired or released.';

CREATE TABLE intake.withheld (
    pool_no int         NOT NULL,
    slot_no bigint      NOT NULL,
    at      timestamptz NOT NULL,
    actor   text        NOT NULL,
    reason  text        NOT NULL,
    PRIMARY KEY (pool_no, slot_no)
);
COMMENT ON TABLE intake.withheld IS
    'Slots that are kept off sale. LOGGED: claimed_slots has a row for each of them, also after a crash.';

CREATE TABLE intake.ended_holds (
    pool_no  int    PRIMARY KEY,
    expired  bigint NOT NULL,
    released bigint NOT NULL
);
COMMENT ON TABLE intake.ended_holds IS
    'How many holds of a pool ended without a confirmation and have been deleted since.';

CREATE FUNCTION intake_private.add_claim_keys() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE intake.claimed_slots ADD CONSTRAINT claimed_slots_pkey PRIMARY KEY (pool_no, slot_no);
    CREATE UNIQUE INDEX claimed_slots_unique_key ON intake.claimed_slots (pool_no, user_id, unique_key);
END $$;
COMMENT ON FUNCTION intake_private.add_claim_keys IS
    'Add the two keys of claimed_slots: one claim for each slot, one slot for each unique key of a user.';
SELECT intake_private.add_claim_keys();

CREATE FUNCTION intake_private.unique_key_of(nth bigint, part_no int, request_id text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN nth IS NULL THEN request_id || '/' || part_no::text ELSE nth::text END;
COMMENT ON FUNCTION intake_private.unique_key_of IS
    'The unique key of a claimed slot: with a limit, which slot of its user it is (nth, from 1); without one (nth NULL) '
    'its request and part.';

CREATE VIEW intake.allocations WITH (security_barrier) AS
SELECT s.resource_id, c.pool_id, s.slot_no, s.label,
       CASE cs.status WHEN 'H' THEN 'HELD' WHEN 'R' THEN 'RESERVED' WHEN 'C' THEN 'CONSUMED' WHEN 'W' THEN 'WITHHELD'
           ELSE 'AVAILABLE' END AS status,
       CASE WHEN cs.status <> 'W' THEN cs.user_id END AS locked_by, cs.locked_at,
       CASE WHEN cs.status <> 'W' THEN cs.claim_id END AS claim_id
FROM intake.slots s
JOIN intake.engine_config c USING (pool_no)
LEFT JOIN intake.claimed_slots cs USING (pool_no, slot_no);
COMMENT ON VIEW intake.allocations IS
    'Every slot and its status: AVAILABLE, HELD, RESERVED, CONSUMED or WITHHELD, with the user and the time of its claim.';
GRANT SELECT ON intake.allocations TO monitor;

CREATE VIEW intake.intents WITH (security_barrier) AS
SELECT 'queued' AS place, m.msg_id, m.message FROM pgmq.q_intake_queue m
UNION ALL SELECT 'dead', (m.message ->> 'queued_as')::bigint, m.message FROM pgmq.q_intake_dlq m
UNION ALL SELECT m.message ->> 'outcome', m.msg_id, m.message FROM pgmq.a_intake_queue m
UNION ALL SELECT m.message ->> 'outcome', (m.message ->> 'queued_as')::bigint, m.message FROM pgmq.a_intake_dlq m
UNION ALL SELECT coalesce(h.ended, 'held'), h.msg_id, h.message FROM intake.holds h;
COMMENT ON VIEW intake.intents IS
    'Every claim and where it is: held, queued, dead, committed, voided, released or expired. All of it is LOGGED. '
    'msg_id is its last id on the queue.';

-- Resource ids of a counted pool are computed, so a claim reads no slot and a rebuild gives every slot its old id: a
-- UUIDv8 (RFC 9562, B.2) whose last 32 bits are the slot number and whose other bits are a SHA-256 of the name of the
-- pool. The hash is computed once for each pool and not for each claim: OpenSSL takes longer to look the algorithm up
-- than to run it.
CREATE FUNCTION intake_private.resource_prefix_of(pool_id text) RETURNS text
LANGUAGE sql STABLE STRICT
RETURN left(overlay(overlay(left(encode(sha256(convert_to(pool_id, 'UTF8')), 'hex'), 32)
    PLACING '8' FROM 13) PLACING '8' FROM 17)::uuid::text, 28);
COMMENT ON FUNCTION intake_private.resource_prefix_of IS
    'The first 28 characters of the resource ids of a counted pool.';

CREATE FUNCTION intake_private.resource_of(resource_prefix text, slot_no bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT
RETURN (resource_prefix || right(to_hex(slot_no + x'100000000'::bigint), 8))::uuid;
COMMENT ON FUNCTION intake_private.resource_of IS
    'The resource id of a slot of a counted pool; NULL if the prefix is NULL.';

CREATE FUNCTION intake_private.resource_at(resource_prefix text, pool_no int, slot_no bigint) RETURNS uuid
LANGUAGE sql STABLE
RETURN coalesce(intake_private.resource_of(resource_prefix, slot_no),
    (SELECT s.resource_id FROM intake.slots s WHERE s.pool_no = resource_at.pool_no
        AND s.slot_no = resource_at.slot_no));
COMMENT ON FUNCTION intake_private.resource_at IS
    'The resource id of a slot: computed for a counted pool, looked up in intake.slots for a pool with its own '
    'resources (prefix NULL).';

CREATE FUNCTION intake_private.new_claim_id(slot_no bigint) RETURNS uuid
LANGUAGE sql VOLATILE
-- A UUIDv7 whose last 24 bits, otherwise random (RFC 9562, 6.9), are the number of its first slot: a row of the claim
-- is found through the primary key of that slot, and the hot path needs no index on claim_id. It only says where to
-- look. 2^24 is more than the largest inventory.
RETURN (left(uuidv7()::text, 30) || right(to_hex(slot_no + 16777216), 6))::uuid;
COMMENT ON FUNCTION intake_private.new_claim_id IS
    'A new claim id (UUIDv7), with the number of the first slot of the claim in its last 24 bits.';

CREATE FUNCTION intake_private.first_slot_of(claim_id uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
RETURN ('x' || right(claim_id::text, 6))::bit(24)::bigint;
COMMENT ON FUNCTION intake_private.first_slot_of IS 'The first slot that a claim was made for, read from its id.';

CREATE FUNCTION intake_private.seat(slot_no bigint, resource_id uuid, label text, attributes jsonb) RETURNS jsonb
LANGUAGE sql STABLE
RETURN CASE WHEN label IS NULL AND attributes IS NULL
    THEN jsonb_build_object('slot_no', slot_no, 'resource_id', resource_id)
    ELSE jsonb_build_object('slot_no', slot_no, 'resource_id', resource_id, 'label', label, 'attributes', attributes) END;
COMMENT ON FUNCTION intake_private.seat IS
    'A slot as a message has it in `seats`. label and attributes are left out where the slot has neither.';
