"""The goals of the claims' benchmark, and whether a run reached them. Pure."""

from collections.abc import Iterator

from bench.common.figures import Sample, Spread, ratio, spread
from bench.common.goals import Verdict
from bench.common.results import Rebuild, Results


def verdicts(results: Results) -> Iterator[Verdict]:
    """All verdicts, in the order of the page."""
    single = "single claim, every feature / bare durable INSERT"
    for clients, bound, aim in ((32, 0.55, 0.65), (128, 0.36, 0.50)):
        found = _ratio(results, "throughput", "claim", "insert", clients)
        yield Verdict(f"{single}, {clients} clients", f">= {bound:.2f}, aim {aim:.2f}", found, bound, aim=aim)
    for clients in (32, 128):
        found = _ratio(results, "throughput", "claim", "skip_locked", clients)
        yield Verdict(f"single claim / SKIP LOCKED + pgmq.send, {clients} clients", ">= 2.5", found, 2.5)
    found = _ratio(results, "batches", "batch_100", "insert_100", 32)
    yield Verdict("claim_batch of 100 / bare INSERT of 100 rows, 32 clients", ">= 0.50", found, 0.5)
    yield from _sold_out(results)
    crowded = [each for each in results.measurements if (each.part, each.variant) == ("crowd", "claim")]
    if len(crowded) == 2 and all(each.samples for each in crowded):
        few, many = sorted(crowded, key=lambda each: each.clients)
        found = ratio(many, few)
    else:
        found = None
    yield Verdict("claims, 2,000 clients through a pooler / 32 clients direct", ">= 0.80", found, 0.8)
    yield from _open_loop(results)
    yield from _rebuilds(results.rebuilds)


def _sold_out(results: Results) -> Iterator[Verdict]:
    for clients, bound, aim in ((32, 0.35, 0.45), (128, 0.20, None)):
        select1 = results.find("sold_out", "select1", clients)
        sold = sorted(
            (each for each in results.measurements if (each.variant, each.clients) == ("sold_out", clients)),
            key=lambda each: each.slots,
        )
        wanted = f">= {bound:.2f}" + (f", aim {aim:.2f}" if aim else "")
        for each in sold:
            found = ratio(each, select1) if select1 else None
            yield Verdict(
                f"sold-out answer / SELECT 1, {each.slots:,} slots, {clients} clients", wanted, found, bound, aim=aim
            )
        if len(sold) == 2:
            yield Verdict(
                f"sold-out answers at {sold[1].slots:,} slots / at {sold[0].slots:,}, {clients} clients",
                ">= 0.90",
                ratio(sold[1], sold[0]),
                0.9,
            )


def _open_loop(results: Results) -> Iterator[Verdict]:
    for clients in (32, 128):
        found = _ratio(results, "open_loop", "claim", "insert", clients, p99=True)
        yield Verdict(
            f"open loop at half the closed-loop rate: p99 / that of the bare INSERT, {clients} clients",
            "<= 3",
            found,
            3,
            at_least=False,
        )


def _rebuilds(rebuilds: list[Rebuild]) -> Iterator[Verdict]:
    for claimed in sorted({each.claimed for each in rebuilds}):
        some = [each for each in rebuilds if each.claimed == claimed]
        found = spread(
            [
                (each.recovery_seconds + each.rebuild_seconds) / (2 * each.seed_seconds + each.recovery_seconds)
                for each in some
            ]
        )
        yield Verdict(
            f"kill -9 to selling again, {some[0].slots:,} slots, {claimed:,} sold / (2 x fresh seed + crash recovery)",
            "<= 1",
            found,
            1,
            at_least=False,
        )


def _ratio(results: Results, part: str, over: str, under: str, clients: int, *, p99: bool = False) -> Spread | None:
    a, b = results.find(part, over, clients), results.find(part, under, clients)
    return ratio(a, b, _p99 if p99 else _rate) if a and b else None


def _rate(sample: Sample) -> float:
    return sample.rate


def _p99(sample: Sample) -> float:
    return sample.p99_ms
