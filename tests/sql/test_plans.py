"""The plans of the hot statements, as the functions really run them: by index, whatever the statistics say."""

import re

import pytest

from tests.sql.intake import POOL, Intake

HOT = ("holds", "free_numbers", "voided_requests", "q_intake_queue", "slots")


@pytest.fixture
def planned(intake: Intake) -> "Planned":
    return Planned(intake)


class Planned:
    """A connection that records the plans it runs, once it is told to."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.plans: list[str] = []
        intake.connection.execute("LOAD 'auto_explain'")

    def watch(self) -> None:
        """From here on, record. The session keeps the plans that it has made before."""
        settings = {"log_nested_statements": "on", "log_level": "notice", "log_analyze": "on", "log_timing": "off"}
        for setting, value in (settings | {"log_min_duration": "0"}).items():
            self.intake.value("SELECT set_config(%s, %s, false)", f"auto_explain.{setting}", value)
        self.intake.connection.add_notice_handler(lambda notice: self.plans.append(notice.message_primary or ""))

    def scans(self) -> list[str]:
        """The scans of our tables that were executed since the last call, as `how table`."""
        text = "\n".join(self.plans)
        self.plans.clear()
        found = re.findall(
            r"((?:Seq|Bitmap Heap|Index Only|Index) Scan)(?: Backward)?(?: using (\w+))? on (\w+)[^\n]*"
            r"\(actual rows=[\d.]+ loops=\d+\)",
            text,
        )
        return [f"{index or how} on {table}" for how, index, table in found if table in HOT]


def fill(intake: Intake, claims: int, **settings: object) -> None:
    intake.open(claims * 2, **settings)
    for n in range(claims):
        intake.claim(f"u{n}", f"r{n}")


@pytest.mark.parametrize("statistics", ["never", "now"])
@pytest.mark.parametrize("limit", [None, 1, 5])
def test_a_claim_reads_by_index_only(planned: Planned, statistics: str, limit: int | None) -> None:
    fill(planned.intake, 600, claimsPerUser=limit)
    if statistics == "now":
        planned.intake.connection.execute("VACUUM ANALYZE intake.holds")
    planned.watch()
    for user, request in (("new", "new"), ("u1", "r1"), ("u1", "other"), ("anonymous", None)):
        planned.intake.claim(user, request)
        scans = planned.scans()
        assert {scan for scan in scans if "holds" in scan} <= {
            "holds_request_key on holds", "holds_user_key on holds"
        }, (user, request, scans)  # fmt: skip
        assert [scan for scan in scans if "Seq Scan" in scan or "slots" in scan] == [], (user, request, scans)


def test_a_plan_made_for_an_empty_pool_is_good_for_a_full_one(planned: Planned) -> None:
    # The session that serves the first claim keeps its plans while the pool fills.
    fill(planned.intake, 600, claimsPerUser=1)
    planned.watch()
    planned.intake.claim("late", "late")
    scans = planned.scans()
    assert "holds_request_key on holds" in scans
    assert [scan for scan in scans if "Seq Scan" in scan] == []


def test_a_sold_out_answer_costs_a_few_probes(planned: Planned) -> None:
    planned.intake.open(600, claimsPerUser=1)
    for n in range(601):
        planned.intake.claim(f"u{n}", f"r{n}")
    planned.watch()
    assert planned.intake.claim("late", "late").outcome == "sold_out"
    scans = planned.scans()
    assert len(scans) <= 3, scans
    assert [scan for scan in scans if "Seq Scan on holds" in scan] == []


def test_reading_and_acknowledging_a_batch_goes_by_key(planned: Planned) -> None:
    fill(planned.intake, 20)
    planned.intake.connection.execute(
        "INSERT INTO pgmq.q_intake_queue (vt, message) SELECT clock_timestamp(), m.message"
        " FROM pgmq.q_intake_queue m, generate_series(1, 2500)"
    )
    planned.intake.connection.execute("VACUUM ANALYZE pgmq.q_intake_queue")
    planned.watch()
    messages = planned.intake.read(20)
    read = planned.scans()
    planned.intake.change("mark_validated", messages)
    marked = planned.scans()
    planned.intake.acknowledge(messages, "committed")
    acknowledged = planned.scans()
    for scans in (read, marked, acknowledged):
        assert {scan for scan in scans if "queue" in scan} == {"q_intake_queue_pkey on q_intake_queue"}
    assert "holds_pkey on holds" in acknowledged
    assert planned.intake.value("SELECT count(*) FROM pgmq.a_intake_queue") == 20


def test_ten_claims_of_a_house_account_do_not_read_each_other(planned: Planned) -> None:
    planned.intake.open(2000)
    for n in range(1000):
        planned.intake.claim("house", f"r{n}")
    planned.watch()
    planned.intake.claim("house", "new")
    rows = [int(n) for n in re.findall(r"holds_request_key[^\n]*actual rows=(\d+)", "\n".join(planned.plans))]
    assert rows == [0], f"the probe for {POOL}'s request looked at {rows} claims"
