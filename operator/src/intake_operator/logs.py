"""Logs: one JSON object a line; no bodies, no secrets."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

FIELDS: Final = ("namespace", "event", "actor", "reason", "error")


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON, with the fields that speak of an event."""

    def format(self, record: logging.LogRecord) -> str:
        """Time in UTC, level, logger, message, fields, and the traceback if there is one."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send everything to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # kopf tells every event it sees at INFO or below; what matters of it is a warning.
    logging.getLogger("kopf").setLevel(logging.WARNING)
