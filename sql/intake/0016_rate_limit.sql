-- The token bucket of a pool: how many claims all bridges together may send to the ledger (I10).
--
-- For bridge: lease_tokens, return_tokens.
--
-- A token is the right to send one claim. A token that a bridge has leased counts until the bridge reports that its
-- call has finished, or until the lease runs out. So at every instant
--
--  tokens in the bucket + tokens on lease <= capacity,
--
-- and from that follows, for every period and whatever happens between a lease and the row that it becomes in the
-- ledger,
--
--  commits in the period <= maxPerSecond x period + capacity,
--
-- because each of them was on lease or in the bucket when the period began, or has flowed in since. Long calls do not
-- pile up with later ones: while they are out, less flows in. Only the clock of this database counts.
--
-- UNLOGGED: a lease costs no fsync, and a crash empties the table. The row that is then created is full of a lease that
-- no bridge has, because DB1 does not know which calls were under way. A change of maxPerSecond takes effect with the
-- next call.

CREATE TYPE intake.token_lease AS (lease uuid, tokens int, taken_at timestamptz, until timestamptz);

CREATE UNLOGGED TABLE intake.token_buckets (
    pool_no      int                  PRIMARY KEY,
    tokens       float8               NOT NULL,
    counted_at   timestamptz          NOT NULL,
    call_seconds float8               NOT NULL DEFAULT 0,
    leases       intake.token_lease[] NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE intake.token_buckets IS
    'The token bucket of each pool that has maxPerSecond: the tokens in it, and the tokens on lease.';
COMMENT ON COLUMN intake.token_buckets.call_seconds IS
    'Seconds from a lease to the end of its call: a moving average that follows longer calls faster.';

CREATE FUNCTION intake_private.token_lease_seconds() RETURNS float8
LANGUAGE sql IMMUTABLE
-- The tokens of a bridge that dies are unavailable for this long. It is many round trips long, so that no living
-- bridge loses its lease.
RETURN 1.0;
COMMENT ON FUNCTION intake_private.token_lease_seconds IS
    'How many seconds a lease of tokens lasts unless it is renewed.';

CREATE FUNCTION intake_private.bucket_capacity(rate float8, call_seconds float8) RETURNS float8
LANGUAGE sql IMMUTABLE
-- The burst: two leases. While one call is out the next lease has to fill, so a bridge gets its rate only from twice
-- what flows in during a call, plus half of that because calls are not equally long. A tenth of a second covers calls
-- of 40 ms; the row is then updated some 20 times a second, whatever the number of bridges and the rate. Calls longer
-- than 0.4 s slow all bridges down: a burst of more than a second is not what a ledger asks for.
RETURN 1 + rate * least(1.0, greatest(0.1, 2.5 * call_seconds));
COMMENT ON FUNCTION intake_private.bucket_capacity IS
    'The most tokens that are in the bucket and on lease together, for a rate per second and an average call in '
    'seconds.';

CREATE FUNCTION intake_private.open_bucket(config intake.engine_config, no_call_under_way boolean) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO intake.token_buckets (pool_no, tokens, counted_at, leases)
    SELECT config.pool_no, 0, clock_timestamp(), CASE WHEN no_call_under_way THEN '{}' ELSE
        ARRAY[ROW(gen_random_uuid(), ceil(intake_private.bucket_capacity(config.max_per_second, 0))::int,
            clock_timestamp(),
            clock_timestamp() + make_interval(secs => intake_private.token_lease_seconds()))::intake.token_lease] END
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION intake_private.open_bucket IS
    'Create an empty bucket. Unless it is known that no call is under way, it begins with a pause of one lease.';

CREATE FUNCTION intake_private.bucket_at(config intake.engine_config, INOUT at timestamptz,
    OUT bucket intake.token_buckets)
LANGUAGE plpgsql AS $$
DECLARE
    longest CONSTANT interval := make_interval(secs => intake_private.token_lease_seconds());
    room    float8;
BEGIN
    SELECT b.* INTO bucket FROM intake.token_buckets b WHERE b.pool_no = config.pool_no FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM intake_private.open_bucket(config, false);
        SELECT b.* INTO bucket FROM intake.token_buckets b WHERE b.pool_no = config.pool_no FOR UPDATE;
    END IF;
    at := coalesce(at, clock_timestamp()); -- after the lock, so that time never goes back between two callers
    -- First add what has flowed in since, limited by all leases that were out until now; then remove the leases that
    -- have run out.
    room := intake_private.bucket_capacity(config.max_per_second, bucket.call_seconds)
        - (SELECT coalesce(sum(l.tokens), 0) FROM unnest(bucket.leases) l);
    bucket.tokens := greatest(0, least(room, bucket.tokens
        + config.max_per_second * greatest(0, extract(epoch FROM at - bucket.counted_at))));
    bucket.counted_at := at;
    -- If the clock was set back, no lease becomes longer.
    bucket.leases := ARRAY(SELECT ROW(l.lease, l.tokens, l.taken_at, least(l.until, at + longest))::intake.token_lease
        FROM unnest(bucket.leases) l WHERE l.until > at);
END $$;
COMMENT ON FUNCTION intake_private.bucket_at IS
    'The bucket of a pool, locked, as it is at this instant (NULL: now). Created if it does not exist.';

CREATE FUNCTION intake_private.save_bucket(bucket intake.token_buckets) RETURNS void
LANGUAGE sql AS $$
    UPDATE intake.token_buckets b SET tokens = bucket.tokens, counted_at = bucket.counted_at,
        call_seconds = bucket.call_seconds, leases = bucket.leases
    WHERE b.pool_no = bucket.pool_no;
$$;
COMMENT ON FUNCTION intake_private.save_bucket IS 'Write a bucket that the caller has locked.';

CREATE FUNCTION intake_private.lease_tokens_at(config intake.engine_config, wanted int, moment timestamptz,
    OUT lease uuid, OUT granted int, OUT wait_seconds float8, OUT lease_seconds float8)
LANGUAGE plpgsql AS $$
DECLARE
    b       record;
    bucket  intake.token_buckets;
    portion int;
BEGIN
    SELECT * INTO b FROM intake_private.bucket_at(config, moment);
    bucket := b.bucket;
    -- Half of the bucket: one lease is out while the next fills, and one dead bridge does not stop the others. A
    -- bridge that wants less waits for a full portion too, or it would always be served before those that want more.
    portion := greatest(1, ceil((intake_private.bucket_capacity(config.max_per_second, bucket.call_seconds) - 1) / 2));
    granted := CASE WHEN bucket.tokens >= portion THEN least(wanted, portion) ELSE 0 END;
    lease_seconds := intake_private.token_lease_seconds();
    wait_seconds := greatest(0, portion - bucket.tokens) / config.max_per_second;
    IF granted > 0 THEN
        lease := gen_random_uuid();
        wait_seconds := 0;
        bucket.tokens := bucket.tokens - granted;
        bucket.leases := bucket.leases || ROW(lease, granted, b.at,
            b.at + make_interval(secs => lease_seconds))::intake.token_lease;
    END IF;
    PERFORM intake_private.save_bucket(bucket);
END $$;
COMMENT ON FUNCTION intake_private.lease_tokens_at IS 'lease_tokens() at a given instant (NULL: now).';

CREATE FUNCTION intake_private.return_tokens_at(config intake.engine_config, token_lease uuid, finished int,
    moment timestamptz)
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    b      record;
    bucket intake.token_buckets;
    mine   intake.token_lease;
    took   float8;
BEGIN
    SELECT * INTO b FROM intake_private.bucket_at(config, moment);
    bucket := b.bucket;
    SELECT l.* INTO mine FROM unnest(bucket.leases) l WHERE l.lease = token_lease;
    IF mine.lease IS NOT NULL THEN
        bucket.leases := ARRAY(SELECT l FROM unnest(bucket.leases) l WHERE l.lease <> token_lease);
        IF finished >= mine.tokens THEN
            took := least(1.0, greatest(0, extract(epoch FROM b.at - mine.taken_at)));
            -- Rises faster than it falls: the bucket has to be large enough for the longer calls.
            bucket.call_seconds := bucket.call_seconds
                + (took - bucket.call_seconds) / CASE WHEN took > bucket.call_seconds THEN 4 ELSE 16 END;
        ELSE
            bucket.leases := bucket.leases || ROW(mine.lease, mine.tokens - finished, mine.taken_at,
                b.at + make_interval(secs => intake_private.token_lease_seconds()))::intake.token_lease;
        END IF;
    END IF;
    PERFORM intake_private.save_bucket(bucket);
    RETURN mine.lease IS NOT NULL;
END $$;
COMMENT ON FUNCTION intake_private.return_tokens_at IS 'return_tokens() at a given instant (NULL: now).';

CREATE FUNCTION intake.lease_tokens(pool_id text, wanted int, OUT lease uuid, OUT granted int, OUT wait_seconds float8,
    OUT lease_seconds float8)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake_private.config_of(lease_tokens.pool_id);
BEGIN
    IF coalesce(lease_tokens.wanted, 0) NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'wanted is 1 to 10000 tokens'
            USING ERRCODE = 'IE002', HINT = 'One token for each claim that is to be sent.';
    END IF;
    IF config.max_per_second IS NULL THEN
        granted := wanted;
        wait_seconds := 0;
    ELSE
        SELECT d.* INTO lease, granted, wait_seconds, lease_seconds
        FROM intake_private.lease_tokens_at(config, wanted, NULL) d;
    END IF;
END $$;
COMMENT ON FUNCTION intake.lease_tokens IS
    'Lease tokens: the right to send up to `granted` of 1 to 10000 wanted claims to the ledger within lease_seconds. '
    'granted 0: ask again after wait_seconds. lease NULL with granted > 0: the pool has no maxPerSecond. Raises IE001 '
    'for an unknown pool, IE002 for a bad number.';

CREATE FUNCTION intake.return_tokens(pool_id text, lease uuid, finished int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake_private.config_of(return_tokens.pool_id);
BEGIN
    IF return_tokens.lease IS NULL OR coalesce(return_tokens.finished, -1) < 0 THEN
        RAISE EXCEPTION 'return_tokens needs a lease and the number of finished calls' USING ERRCODE = 'IE002',
            HINT = 'How many calls of the lease have finished; 0 only renews it.';
    END IF;
    RETURN config.max_per_second IS NULL
        OR intake_private.return_tokens_at(config, return_tokens.lease, return_tokens.finished, NULL);
END $$;
COMMENT ON FUNCTION intake.return_tokens IS
    'Record that so many calls of a lease have finished, and renew the lease for the rest; 0 only renews. Returns '
    'false if the lease had run out. Raises IE001 for an unknown pool, IE002 without a lease or for a negative number.';

GRANT EXECUTE ON FUNCTION intake.lease_tokens, intake.return_tokens TO bridge;
