"""When the operator is to be restarted, and what the log and the metrics say of a starved queue."""

import pytest
from aiohttp import ClientSession
from intake_operator.metrics import Metrics
from intake_operator.probes import DEAD_AFTER, STARVED_AFTER, WARN_AFTER, Health, flaw, serve, starvation
from intake_operator.workqueue import Load
from prometheus_client import generate_latest

DEAD, STARVED = DEAD_AFTER.total_seconds(), STARVED_AFTER.total_seconds()
HELD = {"north": 3, "south": 5}


def load(*, waiting: int = 1, starved: float = 0.0, held: dict[str, int] | None = None) -> Load:
    return Load(waiting, starved, starved, HELD if held is None else held, 8)


@pytest.mark.parametrize(
    ("silent", "now", "long_steps", "told"),
    [
        (0.0, load(), 0, ""),
        (DEAD + 1, load(waiting=0, held={}), 0, ""),
        (DEAD + 1, load(waiting=0, held={"north": 1}), 0, "no pass has ended for 401 s"),
        (DEAD + 1, load(held={}), 0, "no pass has ended for 401 s"),
        (0.0, load(starved=STARVED), 0, ""),
        (0.0, load(starved=STARVED + 1), 0, "passes end, and one is due for 401 s: 8 of 8 workers are busy; by"),
        (0.0, load(starved=STARVED + 1), 1, ""),
    ],
)
def test_an_operator_is_restarted_when_no_pass_ends_or_a_namespace_gets_no_worker(
    silent: float, now: Load, long_steps: int, told: str
) -> None:
    found = flaw(silent, now, long_steps=long_steps)
    assert found.startswith(told)
    assert bool(found) == bool(told)


def test_the_log_names_who_holds_the_workers_the_greediest_first_while_a_namespace_waits() -> None:
    assert starvation(load(starved=WARN_AFTER.total_seconds())) == ""
    assert starvation(load(starved=31.2, waiting=4)) == (
        "a namespace has waited for a worker for 31 s, and 4 passes are due: 8 of 8 workers are busy; by namespace: "
        "south 5, north 3. Look for databases and ledgers of these namespaces that do not answer"
    )


async def test_livez_answers_503_with_the_reason_and_metrics_have_the_queue() -> None:
    metrics, now = Metrics(), [load(starved=12.5)]
    metrics.expose_load(lambda: now[0], {"ledger": lambda: {"running": 2, "waiting": 7}})
    runner = await serve(0, metrics, lambda: metrics.heartbeat, Health(lambda: now[0], lambda: "", lambda: True))
    port = next(address[1] for address in runner.addresses if len(address) == 2)  # IPv4 has a port of its own here
    async with ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/livez") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        now[0] = load(starved=STARVED + 1)
        async with session.get("/livez") as answer:
            assert answer.status == 503
            assert "south 5, north 3" in await answer.text()
        async with session.get("/metrics") as answer:
            text = await answer.text()
    await runner.cleanup()
    assert text == generate_latest(metrics.registry).decode()
    for line in (
        "intake_operator_queue_depth 1.0",
        "intake_operator_queue_starved_seconds 401.0",
        'intake_operator_workers_busy{namespace="south"} 5.0',
        'intake_operator_long_reads{kind="ledger",state="waiting"} 7.0',
    ):
        assert line in text
