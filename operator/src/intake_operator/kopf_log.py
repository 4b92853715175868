"""What kopf logs: a request that the API server asks kopf to repeat is no error."""

import logging
from typing import Final

# Watches log their requests here.
WATCHES: Final = "kopf._cogs.clients.watching"


class ThrottlingIsNoError(logging.Filter):
    """Lowers 429 answers to INFO while kopf retries them.

    The API server answers 429 "storage is (re)initializing" for the first second or two of a new CRD, and 429 when it
    throttles. kopf waits as it is told. Its last attempt is still an ERROR.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        message = record.getMessage()
        if record.levelno == logging.ERROR and "will retry" in message and "APITooManyRequestsError" in message:
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        return True


def install() -> None:
    """Filter what kopf's watches log from now on."""
    logging.getLogger(WATCHES).addFilter(ThrottlingIsNoError())
