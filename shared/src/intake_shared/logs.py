"""Logs: one JSON object a line on standard error, with the same keys in every program, and no credentials."""

import logging
import sys
from typing import Any, Final

from pythonjsonlogger import json

from intake_shared.redaction import redacted

# Loggers of ours. A library's record has fields of its own use (kopf's: whole objects), which no log needs.
_OURS: Final = "intake_"


class JsonFormatter(json.JsonFormatter):
    """timestamp (UTC), level, logger, message, then `always`, the fields of `extra`, and exception if there is one."""

    def __init__(self, **always: str) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            json_default=lambda value: redacted(str(value)),
            json_ensure_ascii=False,
        )
        self._always = always

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Put the keys in order, and take credentials out of every text."""
        first = {
            "timestamp": log_data.pop("timestamp").isoformat(timespec="milliseconds"),
            "level": log_data.pop("level").lower(),
            "logger": log_data.pop("logger"),
            "message": log_data.pop("message"),
        }
        last = {"exception": log_data.pop("exception")} if "exception" in log_data else {}
        fields = log_data if first["logger"].startswith(_OURS) else {}
        line = first | self._always | fields | last
        return {key: redacted(value) if isinstance(value, str) else value for key, value in line.items()}


def configure(level: str, package: str, **always: str) -> None:
    """Send everything to standard error: `package` from `level` on, libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(**always))
    least = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(logging.WARNING, least), handlers=[handler], force=True)
    logging.getLogger(package).setLevel(least)
