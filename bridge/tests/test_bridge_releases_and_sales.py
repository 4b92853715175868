"""Releases and sales share a worker: neither waits for all of the other."""

from typing import LiteralString

from rate_check import check_windows, watch
from sale import POOL, Sale, Templates

# A whole inventory: one more claim is answered with sold_out.
ALL = 60

# A ledger that waits for the test in the middle of a commit, before or after it has written its row.
WRAPPED: dict[str, LiteralString] = {
    "void": "PERFORM pg_advisory_xact_lock(7); RETURN QUERY SELECT * FROM inner_transactions(claims);",
    "commit": "RETURN QUERY SELECT * FROM inner_transactions(claims); PERFORM pg_advisory_xact_lock(7);",
}


async def test_i10_releases_and_sales_share_the_rate_and_neither_starves(sale: Sale) -> None:
    rate = 60
    claims = await sale.claim(40)
    await sale.release_leased(claims[:20])
    await watch(sale)
    await sale.configure(maxPerSecond=rate, batchSize=5)
    async with sale.worker():
        await sale.until_drained()
    await sale.check()
    await check_windows(sale, rate)
    rows = sorted((await sale.sales()).values(), key=lambda row: row["recorded_at"])
    words = [row["state"] for row in rows]
    assert (words.count("voided"), words.count("committed")) == (20, 20)
    assert min(words[:20].count("voided"), words[:20].count("committed")) >= 5


async def test_a_release_does_not_wait_for_the_whole_quarantine(templates: Templates) -> None:
    """After an outage of the whole fleet, all messages that were leased may be in the quarantine."""
    async with templates.sale() as sale:
        await sale.claim(300)
        unfinished = """UPDATE pgmq.q_intake_queue SET headers = '{"worker": "gone", "unfinished": 2}', read_ct = 3"""
        await sale.intake.execute(unfinished)
        await sale.rows("SELECT FROM intake.read_batch(%s, 'gone', 10000)", POOL)
        claims = await sale.claim(3)
        await sale.rows("SELECT FROM intake.read_batch(%s, 'gone', 10000)", POOL)
        for claim in claims:
            assert await sale.release(claim) == "releasing"
        quarantined: list[int] = []

        async def released() -> bool:
            (row,) = await sale.rows(
                "SELECT (SELECT count(*) FROM intake.quarantine) AS quarantined,"
                " (SELECT count(*) FROM intake.releases) AS releases"
            )
            quarantined.append(row["quarantined"])
            return row["releases"] == 0

        async with sale.worker():
            await sale.until(released, "the releases are done")
            assert quarantined[-1] > 0
            await sale.until_drained()
        await sale.check()
