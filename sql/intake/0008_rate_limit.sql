-- The meter of a pool: how many claims the whole fleet of bridges may send to the ledger (I10).
--
-- A bucket of tokens, one for each claim that is sent, in one row. What is special: a token that a bridge has leased
-- stays in the bucket until the bridge says that its call has ended, or until the lease runs out. So at every instant
--     tokens in the bucket + tokens out on lease <= capacity,
-- and from that follows, for every window and whatever happens between a lease and the row it becomes in the ledger,
--     commits in the window <= maxPerSecond x window + capacity,
-- because what is committed in it was either out or in the bucket when it began, or has flowed in since. Calls that
-- take long do not pile up with later ones: while they are out, less flows in. Only this database's clock counts.
--
-- UNLOGGED: a lease costs no fsync, and a crash empties it. The row that is made then is full of a lease that nobody
-- holds, because nobody knows what was out. A change of maxPerSecond acts with the next call.

CREATE TYPE intake.token_lease AS (lease uuid, tokens int, taken_at timestamptz, until timestamptz);

CREATE UNLOGGED TABLE intake.token_buckets (
    pool_no      int                  PRIMARY KEY,
    tokens       float8               NOT NULL,
    counted_at   timestamptz          NOT NULL,
    call_seconds float8               NOT NULL DEFAULT 0,
    leases       intake.token_lease[] NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE intake.token_buckets IS 'The bucket of each pool that has maxPerSecond: what is in it, and what is out on lease.';
COMMENT ON COLUMN intake.token_buckets.call_seconds IS 'From a lease to the end of its call: a moving average that leans to the longer ones.';

CREATE FUNCTION intake.token_lease_seconds() RETURNS float8
LANGUAGE sql IMMUTABLE
-- A bridge that dies takes its tokens along for this long. Many times a round trip, so that no living one loses them.
RETURN 1.0;
COMMENT ON FUNCTION intake.token_lease_seconds IS 'How long a lease of tokens lasts unless it is renewed.';

CREATE FUNCTION intake.bucket_capacity(rate float8, call_seconds float8) RETURNS float8
LANGUAGE sql IMMUTABLE
-- The burst: two leases. While a call is out, the next lease has to flow in, so a bridge gets its rate only from twice
-- what flows in during a call, and a half more because calls are not equally long. A tenth of a second covers calls of
-- 40 ms; the row then gives some 20 leases a second, however many bridges and whatever rate. Calls of more than 0.4 s
-- slow the fleet down: a burst of more than a second is none that a ledger asks for.
RETURN 1 + rate * least(1.0, greatest(0.1, 2.5 * call_seconds));
COMMENT ON FUNCTION intake.bucket_capacity IS 'Tokens in the bucket and out on lease, at most.';

CREATE FUNCTION intake.open_bucket(config intake.engine_config, nothing_is_out boolean) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO intake.token_buckets (pool_no, tokens, counted_at, leases)
    SELECT config.pool_no, 0, clock_timestamp(), CASE WHEN nothing_is_out THEN '{}' ELSE
        ARRAY[ROW(gen_random_uuid(), ceil(intake.bucket_capacity(config.max_per_second, 0))::int, clock_timestamp(),
            clock_timestamp() + make_interval(secs => intake.token_lease_seconds()))::intake.token_lease] END
    ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION intake.open_bucket IS 'An empty bucket. Unless it is known that no call is under way, it begins with a pause of one lease.';

CREATE FUNCTION intake.bucket_at(config intake.engine_config, INOUT at timestamptz, OUT meter intake.token_buckets)
LANGUAGE plpgsql AS $$
DECLARE
    longest  CONSTANT interval := make_interval(secs => intake.token_lease_seconds());
    room     float8;
BEGIN
    SELECT m.* INTO meter FROM intake.token_buckets m WHERE m.pool_no = config.pool_no FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM intake.open_bucket(config, false);
        SELECT m.* INTO meter FROM intake.token_buckets m WHERE m.pool_no = config.pool_no FOR UPDATE;
    END IF;
    at := coalesce(at, clock_timestamp()); -- after the lock: time may not run backwards from one caller to the next
    -- First what flows in, beside all that was out until now; then what is out no longer.
    room := intake.bucket_capacity(config.max_per_second, meter.call_seconds)
        - (SELECT coalesce(sum(l.tokens), 0) FROM unnest(meter.leases) l);
    meter.tokens := greatest(0, least(room, meter.tokens
        + config.max_per_second * greatest(0, extract(epoch FROM at - meter.counted_at))));
    meter.counted_at := at;
    -- A clock that was set back makes no lease longer.
    meter.leases := ARRAY(SELECT ROW(l.lease, l.tokens, l.taken_at, least(l.until, at + longest))::intake.token_lease
        FROM unnest(meter.leases) l WHERE l.until > at);
END $$;
COMMENT ON FUNCTION intake.bucket_at IS 'The bucket, locked, as it is at this instant; NULL = now.';

CREATE FUNCTION intake.save_bucket(meter intake.token_buckets) RETURNS void
LANGUAGE sql AS $$
    UPDATE intake.token_buckets m SET tokens = meter.tokens, counted_at = meter.counted_at, call_seconds = meter.call_seconds,
        leases = meter.leases
    WHERE m.pool_no = meter.pool_no;
$$;
COMMENT ON FUNCTION intake.save_bucket IS 'Write down a bucket that the caller has locked.';

CREATE FUNCTION intake.draw_tokens(config intake.engine_config, wanted int, moment timestamptz,
    OUT lease uuid, OUT granted int, OUT wait_seconds float8, OUT lease_seconds float8)
LANGUAGE plpgsql AS $$
DECLARE
    m       record;
    meter   intake.token_buckets;
    portion int;
BEGIN
    SELECT * INTO m FROM intake.bucket_at(config, moment);
    meter := m.meter;
    -- Half of the bucket: one lease is out while the next flows in, and one dead bridge does not stop the others.
    -- Whoever wants less waits for it too, or he would always be before those who want more.
    portion := greatest(1, ceil((intake.bucket_capacity(config.max_per_second, meter.call_seconds) - 1) / 2));
    granted := CASE WHEN meter.tokens >= portion THEN least(wanted, portion) ELSE 0 END;
    lease_seconds := intake.token_lease_seconds();
    wait_seconds := greatest(0, portion - meter.tokens) / config.max_per_second;
    IF granted > 0 THEN
        lease := gen_random_uuid();
        wait_seconds := 0;
        meter.tokens := meter.tokens - granted;
        meter.leases := meter.leases || ROW(lease, granted, m.at,
            m.at + make_interval(secs => lease_seconds))::intake.token_lease;
    END IF;
    PERFORM intake.save_bucket(meter);
END $$;
COMMENT ON FUNCTION intake.draw_tokens IS 'lease_tokens() at a given instant; NULL = now.';

CREATE FUNCTION intake.take_back_tokens(config intake.engine_config, token_lease uuid, settled int, moment timestamptz)
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    m     record;
    meter intake.token_buckets;
    mine  intake.token_lease;
    took  float8;
BEGIN
    SELECT * INTO m FROM intake.bucket_at(config, moment);
    meter := m.meter;
    SELECT l.* INTO mine FROM unnest(meter.leases) l WHERE l.lease = token_lease;
    IF mine.lease IS NOT NULL THEN
        meter.leases := ARRAY(SELECT l FROM unnest(meter.leases) l WHERE l.lease <> token_lease);
        IF settled >= mine.tokens THEN
            took := least(1.0, greatest(0, extract(epoch FROM m.at - mine.taken_at)));
            -- Faster up than down: the longer ones of the calls are what the bucket has to last for.
            meter.call_seconds := meter.call_seconds
                + (took - meter.call_seconds) / CASE WHEN took > meter.call_seconds THEN 4 ELSE 16 END;
        ELSE
            meter.leases := meter.leases || ROW(mine.lease, mine.tokens - settled, mine.taken_at,
                m.at + make_interval(secs => intake.token_lease_seconds()))::intake.token_lease;
        END IF;
    END IF;
    PERFORM intake.save_bucket(meter);
    RETURN mine.lease IS NOT NULL;
END $$;
COMMENT ON FUNCTION intake.take_back_tokens IS 'return_tokens() at a given instant; NULL = now.';

CREATE FUNCTION intake.lease_tokens(pool_id text, wanted int, OUT lease uuid, OUT granted int, OUT wait_seconds float8,
    OUT lease_seconds float8)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake.config_of(lease_tokens.pool_id);
BEGIN
    IF coalesce(lease_tokens.wanted, 0) NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'wanted is 1 to 10000 tokens' USING ERRCODE = 'IE002', HINT = 'One token for each claim that is to be sent.';
    END IF;
    IF config.max_per_second IS NULL THEN
        granted := wanted;
        wait_seconds := 0;
    ELSE
        SELECT d.* INTO lease, granted, wait_seconds, lease_seconds FROM intake.draw_tokens(config, wanted, NULL) d;
    END IF;
END $$;
COMMENT ON FUNCTION intake.lease_tokens IS 'Leave to send up to `wanted` claims to the ledger within lease_seconds; granted 0 = ask again after wait_seconds. No lease = no limit.';

CREATE FUNCTION intake.return_tokens(pool_id text, lease uuid, settled int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config intake.engine_config := intake.config_of(return_tokens.pool_id);
BEGIN
    IF return_tokens.lease IS NULL OR coalesce(return_tokens.settled, -1) < 0 THEN
        RAISE EXCEPTION 'settling needs a lease and a number of tokens' USING ERRCODE = 'IE002',
            HINT = 'How many calls of the lease have ended; 0 renews it.';
    END IF;
    RETURN config.max_per_second IS NULL
        OR intake.take_back_tokens(config, return_tokens.lease, return_tokens.settled, NULL);
END $$;
COMMENT ON FUNCTION intake.return_tokens IS 'So many calls of this lease have ended; what is left of it lasts anew from now. False = it had run out.';

GRANT EXECUTE ON FUNCTION intake.lease_tokens, intake.return_tokens TO bridge;
