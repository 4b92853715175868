"""The bridge's configuration, its secrets and its logs."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from intake_bridge.domain.config import Configuration
from intake_bridge.domain.message import Message, State
from intake_bridge.settings import MissingSettingError, Secrets, load
from intake_shared.logs import JsonFormatter
from pydantic import ValidationError

FROM_SQL: dict[str, Any] = {
    "inventorySize": 10, "batchSize": 7, "opensAt": "x", "closesAt": "y", "visibilityTimeoutSeconds": 45,
    "maxRetries": 10, "paused": False, "claimsPerUser": None, "claimTimeoutSeconds": None, "maxPerSecond": None,
    "validation": {"url": "http://v", "timeoutSeconds": 5, "batch": True},
    "commitTarget": {"postgres": {"function": "shop.finalize"}}, "generation": 3, "sealed": False,
    "windowState": "open", "somethingNew": 1,
}  # fmt: skip


def test_configuration_as_the_sql_hands_it_out() -> None:
    configuration = Configuration.model_validate(FROM_SQL)
    assert (configuration.batch_size, configuration.generation) == (7, 3)
    assert configuration.latency_budget_milliseconds == 1000
    assert configuration.validation is not None
    assert configuration.validation.batch
    wrapped = Configuration.model_validate(FROM_SQL | {"validation": {"webhook": FROM_SQL["validation"]}})
    assert wrapped.validation == configuration.validation
    assert Configuration.model_validate(FROM_SQL | {"validation": None, "commitTarget": None}).commit_target is None


@pytest.mark.parametrize("function", ["f; DROP TABLE x", 'f"', "a.b.c", "F", ""])
def test_a_function_name_that_is_none_is_refused(function: str) -> None:
    with pytest.raises(ValidationError):
        Configuration.model_validate(FROM_SQL | {"commitTarget": {"postgres": {"function": function}}})


def test_a_target_is_one_of_two() -> None:
    for target in ({}, {"postgres": {}, "webhook": {"url": "http://c"}}):
        with pytest.raises(ValidationError, match="exactly one"):
            Configuration.model_validate(FROM_SQL | {"commitTarget": target})


async def test_secrets_from_files_are_read_again_each_time(tmp_path: Path) -> None:
    file = tmp_path / "uri"
    file.write_text("first\n")
    secrets = Secrets({"INTAKE_LEDGER_URI": "ignored", "INTAKE_LEDGER_URI_FILE": str(file)})
    assert await secrets.required("INTAKE_LEDGER_URI") == "first"
    file.write_text("second")
    assert await secrets.required("INTAKE_LEDGER_URI") == "second"
    file.unlink()
    with pytest.raises(MissingSettingError, match="INTAKE_LEDGER_URI_FILE"):
        await secrets.required("INTAKE_LEDGER_URI")
    with pytest.raises(MissingSettingError, match="neither INTAKE_X nor INTAKE_X_FILE"):
        await secrets.required("INTAKE_X")


async def test_two_lives_of_one_pod_are_two_workers() -> None:
    environment = {"INTAKE_DATABASE_URI": "postgresql://x", "INTAKE_POOL": "drop", "INTAKE_WORKER": "uid"}
    (first, _), (second, _) = await load(environment), await load(environment)
    assert first.worker.startswith("uid-")
    assert first.worker != second.worker


def test_a_line_about_a_claim_names_it_and_not_the_user() -> None:
    message = Message(
        pool_id="drop", msg_id=5, read_ct=1, claim_id=UUID(int=7), user_id="alice", slots=1, seats="[]",
        request_id=None, claimed_at=datetime(2026, 1, 1, tzinfo=UTC), state=State.QUEUED, failures=0,
    )  # fmt: skip
    record = logging.makeLogRecord(
        {"name": "intake_bridge", "msg": "stale", "levelname": "WARNING", **message.for_log()}
    )
    line = json.loads(JsonFormatter().format(record))
    assert (line["msg_id"], line["pool_id"], line["claim_id"]) == (5, "drop", str(UUID(int=7)))
    assert "alice" not in json.dumps(line)
