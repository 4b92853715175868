-- Where a claim is, and how to give it up.
--
-- For claimer: claim_status (by claim id, or by user and request id) and release_claim. For monitor: claim_status.

-- Functions here use indexes, whatever the statistics say (enable_seqscan is off): a session keeps the plans that it
-- made for small tables.

-- Few claims are voided or released. These indexes find them without reading the others.
CREATE INDEX a_intake_queue_void ON pgmq.a_intake_queue ((message ->> 'claim_id'))
WHERE message ->> 'outcome' <> 'committed';
CREATE INDEX q_intake_dlq_claim ON pgmq.q_intake_dlq ((message ->> 'claim_id'));
CREATE INDEX a_intake_dlq_claim ON pgmq.a_intake_dlq ((message ->> 'claim_id'));

CREATE FUNCTION intake_private.state_of(claimed intake.claimed_slots) RETURNS text
LANGUAGE sql STABLE
RETURN CASE claimed.status
    WHEN 'C' THEN 'committed'
    -- What housekeeping has not ended yet can no longer be confirmed either.
    WHEN 'H' THEN (SELECT CASE WHEN h.expires_at <= clock_timestamp() THEN 'expired' ELSE 'held' END
        FROM intake.holds h WHERE h.claim_id = claimed.claim_id)
    -- A discarded dead letter is in the archive of the dead letters.
    WHEN 'V' THEN coalesce((SELECT a.message ->> 'outcome' FROM pgmq.a_intake_queue a WHERE a.msg_id = claimed.msg_id),
        (SELECT h.ended FROM intake.holds h WHERE h.claim_id = claimed.claim_id), 'voided')
    ELSE coalesce((SELECT CASE WHEN q.message ? 'release' THEN 'releasing' ELSE q.message ->> 'state' END
        FROM pgmq.q_intake_queue q WHERE q.msg_id = claimed.msg_id), 'dead') END;
COMMENT ON FUNCTION intake_private.state_of IS
    'Where a claim is: held, queued, validated, committing, releasing, committed, voided, released, expired or dead.';

CREATE FUNCTION intake_private.claimed_slot_of(pool_no int, claim_id uuid) RETURNS intake.claimed_slots
LANGUAGE sql STABLE SET enable_seqscan = off -- by key, whatever the statistics say of a growing table
RETURN (SELECT f.found FROM (
        SELECT intake_private.first_slot_of(claimed_slot_of.claim_id) AS slot_no
        -- A voided claim has another key: its slots may belong to other claims by now.
        UNION ALL SELECT intake_private.voided_key(a.msg_id, 1) FROM pgmq.a_intake_queue a
        WHERE a.message ->> 'claim_id' = claimed_slot_of.claim_id::text AND a.message ->> 'outcome' <> 'committed'
        UNION ALL SELECT intake_private.voided_key((d.message ->> 'queued_as')::bigint, 1) FROM pgmq.a_intake_dlq d
        WHERE d.message ->> 'claim_id' = claimed_slot_of.claim_id::text
        UNION ALL SELECT intake_private.voided_key(h.msg_id, 1) FROM intake.holds h
        WHERE h.claim_id = claimed_slot_of.claim_id) k
    -- One key after the other: a join could read all claimed slots of the pool.
    CROSS JOIN LATERAL (SELECT cs AS found, cs.claim_id, cs.part_no FROM intake.claimed_slots cs
        WHERE cs.pool_no = claimed_slot_of.pool_no AND cs.slot_no = k.slot_no OFFSET 0) f
    WHERE f.claim_id = claimed_slot_of.claim_id AND f.part_no = 1);
COMMENT ON FUNCTION intake_private.claimed_slot_of IS
    'The first claimed slot of a claim by its id; NULL if the pool has no such claim.';

CREATE FUNCTION intake_private.status_of(claimed intake.claimed_slots)
RETURNS TABLE (state text, slot_no bigint, resource_id uuid, label text, attributes jsonb, receipt jsonb,
    expires_at timestamptz)
LANGUAGE sql STABLE ROWS 2 AS $$
    SELECT intake_private.state_of(claimed), s.slot_no, s.resource_id, s.label, s.attributes,
        nullif(m.message -> 'receipt', 'null'),
        intake_private.hold_ends_at(claimed.claim_id)
    FROM (SELECT intake_private.message_of(claimed) AS message OFFSET 0) m
    CROSS JOIN LATERAL intake_private.seats_in(m.message) s
    ORDER BY s.n
$$;
COMMENT ON FUNCTION intake_private.status_of IS
    'What claim_status() says of the claim that has this slot: a row for each of its slots.';

CREATE FUNCTION intake.claim_status(pool_id text, claim_id uuid)
RETURNS TABLE (state text, slot_no bigint, resource_id uuid, label text, attributes jsonb, receipt jsonb,
    expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(claim_status.pool_id);
BEGIN
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        claim_status.state := 'not_ready';
        RETURN NEXT;
        RETURN;
    END IF;
    -- One statement, so one snapshot: a claim that is archived between two statements would be found in neither
    -- place, and reported as dead.
    RETURN QUERY SELECT s.*
    FROM (SELECT intake_private.claimed_slot_of(config.pool_no, claim_status.claim_id) AS claimed OFFSET 0) f
    CROSS JOIN LATERAL intake_private.status_of(f.claimed) s
    WHERE (f.claimed).claim_id IS NOT NULL;
    IF FOUND THEN
        PERFORM intake_private.wait_for_standby();
    ELSE
        claim_status.state := 'unknown';
        RETURN NEXT;
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_status(text, uuid) IS
    'One claim by its id, a row for each of its slots. state: held, queued, validated, committing, releasing, '
    'committed, voided, released, expired, dead, unknown (no such claim in this pool), or not_ready while the pool is '
    'being rebuilt. receipt is what the ledger answered, expires_at is when a hold ends. Raises IE001 for an unknown '
    'pool, IE002 beside a synchronous standby where synchronous_commit is off or local.';

CREATE FUNCTION intake.claim_status(pool_id text, user_id text, request_id text)
RETURNS TABLE (claim_id uuid, state text, slot_no bigint, resource_id uuid, label text, attributes jsonb, receipt jsonb,
    expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(claim_status.pool_id);
BEGIN
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        claim_status.state := 'not_ready';
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT (f.claimed).claim_id, s.*
    FROM (SELECT cs AS claimed FROM intake_private.claims_of_request(config.pool_no, config.claims_per_user IS NOT NULL,
            claim_status.user_id, claim_status.request_id) cs WHERE cs.part_no = 1 OFFSET 0) f
    CROSS JOIN LATERAL intake_private.status_of(f.claimed) s;
    IF FOUND THEN
        PERFORM intake_private.wait_for_standby();
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_status(text, text, text) IS
    'The claim of a request of a user, a row for each of its slots, as claim_status(pool_id, claim_id). No row if the '
    'request has made no claim; one row with the state not_ready while the pool is being rebuilt. Raises IE001 for an '
    'unknown pool, IE002 beside a synchronous standby where synchronous_commit is off or local.';

CREATE FUNCTION intake.release_claim(pool_id text, claim_id uuid, reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    config  intake.engine_config := intake_private.config_of(release_claim.pool_id);
    claimed intake.claimed_slots;
    intent  pgmq.q_intake_queue;
    state   text;
BEGIN
    IF coalesce(length(release_claim.reason), 0) NOT BETWEEN 1 AND 200 OR release_claim.claim_id IS NULL THEN
        RAISE EXCEPTION 'release_claim needs a claim and a reason of 1 to 200 characters' USING ERRCODE = 'IE002',
            HINT = 'The reason is kept with the claim.';
    END IF;
    PERFORM intake_private.require_durable_commit();
    -- Before the first snapshot: while seed() rebuilds the claimed slots this waits, and then sees all of them.
    LOCK TABLE intake.claimed_slots IN ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        RETURN 'not_ready';
    END IF;
    LOOP
        claimed := intake_private.claimed_slot_of(config.pool_no, release_claim.claim_id);
        IF claimed.claim_id IS NULL THEN
            RETURN 'unknown';
        END IF;
        IF intake_private.release_hold(config, release_claim.claim_id, release_claim.reason) THEN
            RETURN 'released';
        END IF;
        SELECT q.* INTO intent FROM pgmq.q_intake_queue q WHERE q.msg_id = claimed.msg_id FOR UPDATE;
        EXIT WHEN FOUND;
        -- It is settled, perhaps since we looked it up. Or it was replayed as another message: look it up again.
        state := intake_private.state_of(intake_private.claimed_slot_of(config.pool_no, release_claim.claim_id));
        IF state IN ('committed', 'voided', 'released', 'expired', 'dead') THEN
            -- the other answers have locked the message, which counts as a write
            PERFORM intake_private.wait_for_standby();
            RETURN state;
        END IF;
    END LOOP;
    IF intent.message ? 'release' THEN
        RETURN 'releasing';
    ELSIF intent.message ->> 'state' = 'committing' THEN
        RETURN 'committing';
    ELSIF intent.read_ct > 0 THEN
        -- A bridge has read it. Only the ledger can say that it was not committed.
        PERFORM intake_private.revoke_leases(config.pool_no, ARRAY[claimed.msg_id], release_claim.reason);
        RETURN 'releasing';
    END IF;
    -- No bridge has read it, and while we have its row locked none can.
    PERFORM intake_private.archive(config.pool_id, ARRAY[claimed.msg_id], ARRAY[claimed.msg_id], ARRAY['released'],
        remark => jsonb_build_object('release', jsonb_build_object('reason', release_claim.reason, 'at', clock_timestamp())));
    RETURN 'released';
END $$;
COMMENT ON FUNCTION intake.release_claim IS
    'Give a claim up. Safe to repeat. released: the slot is free. releasing: the slot is free when the ledger has '
    'voided the claim. committing, committed, voided, expired, dead, unknown, not_ready: nothing was changed. Raises '
    'IE001 for an unknown pool, IE002 without a claim or a reason of 1 to 200 characters, or where synchronous_commit '
    'is off.';

GRANT EXECUTE ON FUNCTION intake.release_claim TO claimer;
GRANT EXECUTE ON FUNCTION intake.claim_status(text, uuid), intake.claim_status(text, text, text) TO claimer, monitor;
