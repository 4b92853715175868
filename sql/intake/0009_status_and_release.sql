-- Where a claim is, and how to give it up.
--
-- For claimer: claim_status (by claim id, or by user and request id) and release_claim. For monitor: claim_status.

-- Few claims are voided or released. These indexes find them without reading the others.
CREATE INDEX a_intake_queue_void ON pgmq.a_intake_queue ((message ->> 'claim_id'))
WHERE message ->> 'outcome' <> 'committed';
CREATE INDEX a_intake_dlq_claim ON pgmq.a_intake_dlq ((message ->> 'claim_id'));

CREATE FUNCTION intake_private.state_of(claimed intake.claimed_slots) RETURNS text
LANGUAGE sql STABLE
RETURN CASE claimed.status
    WHEN 'C' THEN 'committed'
    -- A discarded dead letter is in the archive of the dead letters.
    WHEN 'V' THEN coalesce((SELECT a.message ->> 'outcome' FROM pgmq.a_intake_queue a WHERE a.msg_id = claimed.msg_id),
    'voided') ELSE coalesce((SELECT CASE WHEN q.message ? 'release' THEN 'releasing' ELSE q.message ->> 'state' END
        FROM pgmq.q_intake_queue q WHERE q.msg_id = claimed.msg_id), 'dead') END;
COMMENT ON FUNCTION intake_private.state_of IS
    'Where a claim is: queued, validated, committing, releasing, committed, voided, released or dead.';

CREATE FUNCTION intake_private.claimed_slot_of(pool_no int, claim_id uuid) RETURNS intake.claimed_slots
LANGUAGE sql STABLE SET enable_seqscan = off -- by key, whatever the statistics say of a growing table
RETURN (SELECT cs FROM intake.claimed_slots cs
    WHERE cs.pool_no = claimed_slot_of.pool_no AND cs.claim_id = claimed_slot_of.claim_id AND cs.slot_no IN (
        SELECT intake_private.slot_of(claimed_slot_of.claim_id)
        -- A voided claim is stored under -msg_id: its slot may belong to another claim by now.
        UNION ALL SELECT -a.msg_id FROM pgmq.a_intake_queue a
        WHERE a.message ->> 'claim_id' = claimed_slot_of.claim_id::text AND a.message ->> 'outcome' <> 'committed'
        UNION ALL SELECT -(d.message ->> 'queued_as')::bigint FROM pgmq.a_intake_dlq d
        WHERE d.message ->> 'claim_id' = claimed_slot_of.claim_id::text));
COMMENT ON FUNCTION intake_private.claimed_slot_of IS
    'The row of a claim by its id; NULL if the pool has no such claim.';

CREATE FUNCTION intake.claim_status(pool_id text, claim_id uuid,
    OUT state text, OUT slot_no bigint, OUT resource_id uuid, OUT label text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    config intake.engine_config := intake_private.config_of(claim_status.pool_id);
BEGIN
    IF NOT EXISTS (SELECT FROM intake.pools p WHERE p.pool_no = config.pool_no) THEN
        state := 'not_ready';
        RETURN;
    END IF;
    -- One statement, so one snapshot: a claim that is archived between two statements would be found in neither
    -- place, and reported as dead.
    SELECT intake_private.state_of(f.claimed), s.slot_no, s.resource_id, s.label INTO state, slot_no, resource_id, label
    FROM (SELECT intake_private.claimed_slot_of(config.pool_no, claim_status.claim_id) AS claimed OFFSET 0) f
    LEFT JOIN intake.slots s ON s.pool_no = config.pool_no
        AND s.slot_no = coalesce((f.claimed).was_slot_no, (f.claimed).slot_no)
    WHERE (f.claimed).claim_id IS NOT NULL;
    IF FOUND THEN
        PERFORM intake_private.wait_for_standby();
    ELSE
        state := 'unknown';
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_status(text, uuid) IS
    'One claim by its id. state: queued, validated, committing, releasing, committed, voided, released, dead, unknown '
    '(no such claim in this pool), or not_ready while the pool is being rebuilt. Raises IE001 for an unknown pool, '
    'IE002 beside a synchronous standby where synchronous_commit is off or local.';

CREATE FUNCTION intake.claim_status(pool_id text, user_id text, request_id text)
RETURNS TABLE (claim_id uuid, state text, slot_no bigint, resource_id uuid, label text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    SELECT cs.claim_id, intake_private.state_of(cs), s.slot_no, s.resource_id, s.label
    FROM intake_private.claims_of_request(config.pool_no, config.claims_per_user IS NOT NULL, claim_status.user_id,
        claim_status.request_id) cs
    JOIN intake.slots s ON s.pool_no = cs.pool_no AND s.slot_no = coalesce(cs.was_slot_no, cs.slot_no)
    ORDER BY cs.part_no;
    IF FOUND THEN
        PERFORM intake_private.wait_for_standby();
    END IF;
END $$;
COMMENT ON FUNCTION intake.claim_status(text, text, text) IS
    'The claims of a request of a user, a row for each part, with the states of claim_status(pool_id, claim_id). No '
    'row if the request has made no claim; one row with the state not_ready while the pool is being rebuilt. Raises '
    'IE001 for an unknown pool, IE002 beside a synchronous standby where synchronous_commit is off or local.';

CREATE FUNCTION intake.release_claim(pool_id text, claim_id uuid, reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
        SELECT q.* INTO intent FROM pgmq.q_intake_queue q WHERE q.msg_id = claimed.msg_id FOR UPDATE;
        EXIT WHEN FOUND;
        -- It is settled, perhaps since we looked it up. Or it was replayed as another message: look it up again.
        state := intake_private.state_of(intake_private.claimed_slot_of(config.pool_no, release_claim.claim_id));
        IF state IN ('committed', 'voided', 'released', 'dead') THEN
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
    PERFORM intake_private.archive(config.pool_id, ARRAY[claimed.msg_id], ARRAY['released'],
        jsonb_build_object('release', jsonb_build_object('reason', release_claim.reason, 'at', clock_timestamp())));
    RETURN 'released';
END $$;
COMMENT ON FUNCTION intake.release_claim IS
    'Give a claim up. Safe to repeat. released: the slot is free. releasing: the slot is free when the ledger has '
    'voided the claim. committing, committed, voided, dead, unknown, not_ready: nothing was changed. Raises IE001 for '
    'an unknown pool, IE002 without a claim or a reason of 1 to 200 characters, or where synchronous_commit is off.';

GRANT EXECUTE ON FUNCTION intake.release_claim TO claimer;
GRANT EXECUTE ON FUNCTION intake.claim_status(text, uuid), intake.claim_status(text, text, text) TO claimer, monitor;
