"""Checks I10 afterwards: by every state of the token bucket and every row of the ledger, by one clock."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from sale import Sale

# Each state of the bucket, written down by DB1 itself.
_WATCH = """
CREATE TABLE capacities (at timestamptz NOT NULL, capacity float8 NOT NULL);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.capacities SELECT clock_timestamp(),
        intake_private.bucket_capacity((SELECT c.max_per_second FROM intake.engine_config c), NEW.call_seconds);
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE ON intake.token_buckets FOR EACH ROW EXECUTE FUNCTION watch();
"""


async def watch(sale: Sale) -> None:
    """Before the rate is set."""
    await sale.intake.execute(_WATCH)


async def check_windows(sale: Sale, rate: float, times: Iterable[float] | None = None) -> None:
    """Commits in any window <= rate x window + capacity: the rows of the ledger, or these seconds of the epoch."""
    rows = await sale.rows("SELECT extract(epoch FROM at)::float8 AS at, capacity FROM capacities ORDER BY at")
    seen, bursts = [row["at"] for row in rows], [row["capacity"] for row in rows]
    if times is None:
        times = [row["recorded_at"].timestamp() for row in (await sale.sales()).values()]
    commits = sorted(times)
    for first, start in enumerate(commits):
        # The bucket as it was when the window began; it is written down a little after it has changed.
        burst = max(bursts[max(0, bisect_left(seen, start) - 1) : bisect_right(seen, start) + 1])
        for last in range(first, len(commits)):
            assert last - first + 1 <= rate * (commits[last] - start) + burst
