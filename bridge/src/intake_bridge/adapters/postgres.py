"""What both databases need from psycopg."""

from typing import Any

# Seconds without an acknowledged packet after which a connection is dead. A pulled cable otherwise takes TCP a quarter
# of an hour.
_SILENCE = 10

CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": _SILENCE * 1000,
}
