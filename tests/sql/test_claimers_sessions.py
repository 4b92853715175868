"""Whatever a claimer, a role or the server has set for its session: what a claim leaves behind is the same."""

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.postgres import PostgresServer
from tests.settings import HOSTILE, impose, lift
from tests.sql.intake import POOL, Intake

# Refused with a message of its own: test_every_kind_of_claim_refuses_an_isolation_level_that_cannot_see_the_present.
SETTINGS = [name for name in HOSTILE if name != "default_transaction_isolation"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_setting_of_a_session_changes_a_claim(
    server: PostgresServer, migrated: str, intake: Intake, setting: str
) -> None:
    intake.open(10)
    began = intake.value("SELECT clock_timestamp()")
    with psycopg.connect(server.uri(), autocommit=True) as owner:
        try:
            impose(owner, migrated, setting)
            with Intake(server.uri(migrated, "claimer")) as claimer:
                told = [claimer.claim("Zoë", "r\\1"), claimer.claim("Zoë", "r\\1"), claimer.claim("b")]
                batch = claimer.claim_batch([("c", "1"), ("d", "2")])
                party = claimer.claim_several("e", 2, "3", {"price": 1.0})
                assert [each.outcome for each in claimer.claim_several("e", 2, "3", {"price": 1})] == ["replayed"] * 2
                assert claimer.release(batch[0].claim_id) == "released"
                status = claimer.claim_status(told[0].claim_id)
            with Intake(server.uri(migrated)) as other:
                other.configure(12)
                leased = other.rows(
                    "SELECT msg_id, read_ct, user_id, claimed_at::text FROM intake.read_batch(%s, 'w', 9)", POOL
                )
        finally:
            lift(owner, migrated)
    assert [each.outcome for each in told + batch + party] == ["claimed", "replayed", *["claimed"] * 5]
    assert status["state"] == "queued"
    assert [row[2] for row in leased] == ["Zoë", "b", "d", "e"]
    messages: list[dict[str, Any]] = [
        row[0] for row in intake.rows("SELECT message FROM intake.intents WHERE message ->> 'request_id' <> '1'")
    ]
    for message in messages:
        moment = datetime.fromisoformat(message["claimed_at"])
        assert timedelta(0) <= moment - began < timedelta(minutes=1)
    assert intake.status()["inventory"]["size"] == 12
    assert intake.reconcile() == []
