"""One schema of log lines for all programs, and no credentials in them."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from intake_shared import logs
from intake_shared.logs import JsonFormatter
from intake_shared.redaction import one_line, redacted, writable

CREDENTIALS = [
    "cannot connect to postgresql://bridge:hunter2@db/intake",
    'missing "=" after "postgresql//bridge:hunter2@db" in connection info string',
    "host=db password=hunter2 user=bridge",
    "password='hunter2 with blank'",
    "Authorization: Bearer hunter2",
    "failed to resolve host 'hunter2@db.example': [Errno -2] Name or service not known",
]


@pytest.fixture
def loggers() -> Iterator[None]:
    """Put the loggers back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("intake_operator")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_a_line_has_the_same_keys_in_every_program() -> None:
    try:
        int("boom")
    except ValueError:
        record = logging.getLogger("intake_operator.act").makeRecord(
            "intake_operator.act", logging.WARNING, "", 0, "%s broke", ("it",), sys.exc_info(), extra={"event": "drop"}
        )
    record.created = 1_700_000_000.25
    line = json.loads(JsonFormatter(worker="w").format(record))
    assert list(line) == ["timestamp", "level", "logger", "message", "worker", "event", "exception"]
    assert line["timestamp"] == "2023-11-14T22:13:20.250+00:00"
    assert (line["level"], line["logger"], line["message"]) == ("warning", "intake_operator.act", "it broke")
    assert line["exception"].endswith("with base 10: 'boom'")


@pytest.mark.parametrize("text", CREDENTIALS)
def test_credentials_do_not_reach_a_log(text: str) -> None:
    for arguments in (
        {"msg": "%s", "args": (text,)},
        {"msg": "x", "error": text},
        {"msg": "x", "error": OSError(text)},
    ):
        line = JsonFormatter().format(logging.makeLogRecord({"name": "intake_bridge", **arguments}))
        assert json.loads(line)
        assert "hunter2" not in line
    assert "hunter2" not in redacted(text)
    assert "hunter2" not in one_line(ValueError(text))
    assert "hunter2" not in writable(text)


def test_fields_of_a_library_s_own_are_left_out() -> None:
    record = logging.makeLogRecord({"name": "kopf.objects", "msg": "late", "k8s_ref": {"name": "x"}})
    assert set(json.loads(JsonFormatter(worker="w").format(record))) == {
        "timestamp", "level", "logger", "message", "worker",
    }  # fmt: skip


@pytest.mark.usefixtures("loggers")
def test_libraries_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "intake_operator")
    for name in ("intake_operator.act", "kopf"):
        for level in (logging.DEBUG, logging.WARNING):
            logging.getLogger(name).log(level, "x")
    heard = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["logger"], each["level"]) for each in heard] == [
        ("intake_operator.act", "debug"), ("intake_operator.act", "warning"), ("kopf", "warning"),
    ]  # fmt: skip


def test_an_error_without_a_text_is_named() -> None:
    assert one_line(TimeoutError()) == "no answer in time"
    assert one_line(ConnectionResetError()) == "ConnectionResetError"
    assert one_line(ValueError("first\n\tsecond")) == "first second"


def test_text_from_outside_fits_into_postgresql() -> None:
    assert writable("a\0b\ud800") == "a\ufffdb?"
