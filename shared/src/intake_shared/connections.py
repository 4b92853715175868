"""Connections to PostgreSQL: settings, time limits, and the addresses of a URI one after the other."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_attempts_async

from intake_shared import uris
from intake_shared.certificates import NO_CERTIFICATES, Certificates
from intake_shared.confirmed import ConfirmedConnection
from intake_shared.measured import MeasuredRelay

# Seconds for one address.
ADDRESS_TIMEOUT: Final = 5
# Seconds for all addresses of all hosts. The operator's check of a ledger, connecting included, may take ten.
CONNECT_TIMEOUT: Final = 8.0
# Seconds without an acknowledged packet after which a connection is dead. A node that is gone, or a pulled cable,
# otherwise takes TCP a quarter of an hour.
_SILENCE: Final = 10

# Parameters of every connection, by libpq's names. They take precedence over those of a user's URI.
SETTINGS: Final[dict[str, Any]] = {
    "client_encoding": "utf8",  # from a database in SQL_ASCII psycopg returns bytes otherwise
    "connect_timeout": ADDRESS_TIMEOUT,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": _SILENCE * 1000,
}

# Session settings for DB1, as `options`. A server, database or role may have set them otherwise, and values would be
# read or written in another form, or the warning that `ConfirmedConnection` needs would not be sent.
# Never for a ledger: its sessions are its owner's (docs/ledger.md), and a pooler before it may refuse `options`.
PINNED: Final = (
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=1 -c bytea_output=hex"
    " -c array_nulls=on -c transform_null_equals=off -c standard_conforming_strings=on"
    r" -c default_transaction_isolation=read\ committed -c default_transaction_read_only=off"
    " -c client_min_messages=warning"
)


@asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Limit the time of the calls inside, all together. Raises TimeoutError, which is an OSError."""
    # Two limits: a cancelled psycopg call waits until the server agrees, and a frozen server never does. The second
    # limit, a second later, ends that wait.
    async with asyncio.timeout(seconds + 1), asyncio.timeout(seconds):
        yield


async def connect(
    uri: str,
    seconds: float = CONNECT_TIMEOUT,
    certificates: Certificates = NO_CERTIFICATES,
    names: Mapping[str, str] = MappingProxyType({}),
    longest_answer: int | None = None,
    **more: Any,
) -> ConfirmedConnection:
    """Connect to the first address of a user's URI that accepts us. `more` are further parameters of psycopg.

    With `certificates` a host shows one for its own name, or for the one that `names` has for it. `longest_answer`
    bounds each answer of the server, in bytes.

    Each address gets an equal share of the time that is left: of three hosts two may be frozen. psycopg itself gives
    each address all of the time. Raises psycopg.Error or OSError, with the name of each address and what it answered.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    failures: list[psycopg.Error] = []
    parameters = uris.read(uri)
    secured = uris.secured(parameters, certificates)
    try:
        async with asyncio.timeout(seconds):
            attempts = await conninfo_attempts_async(parameters)
    except TimeoutError:
        raise psycopg.OperationalError("its host names were not resolved in time") from None
    except UnicodeError:  # Python's name lookup raises it, which is neither a psycopg.Error nor an OSError
        wrong = "the URI has a host that can be no name: between its dots stand 1 to 63 characters"
        raise psycopg.OperationalError(wrong) from None
    with ExitStack() as stack:
        secured |= stack.enter_context(certificates.files())
        for left, attempt in zip(range(len(attempts), 0, -1), attempts, strict=True):
            host = str(attempt.get("host") or attempt.get("hostaddr"))
            if certificates and host in names:
                attempt["host"] = names[host]
            try:
                async with asyncio.timeout((deadline - clock()) / left):
                    found = await _connect(attempt | SETTINGS | secured | more, longest_answer)
            except TimeoutError:
                port = attempt.get("port") or 5432
                failures.append(psycopg.OperationalError(f"{host}, port {port}: no answer in time"))
            except psycopg.Error as error:
                failures.append(error)
            else:
                # libpq connects again with the same parameters to cancel a query.
                found.on_close(stack.pop_all().close)
                return found
    if len(failures) == 1:
        raise failures[0]
    answers = "; ".join(str(each).strip().partition("\n")[0] for each in failures)
    raise psycopg.OperationalError(f"none of {len(failures)} addresses accepts the connection: {answers}")


async def _connect(parameters: dict[str, Any], longest_answer: int | None) -> ConfirmedConnection:
    address = parameters.get("hostaddr") or parameters.get("host") or ""
    # A socket is not the operator's to reach, and libpq's TLS is not for sockets.
    if longest_answer is None or not address or address.startswith("/"):
        return await ConfirmedConnection.connect(**parameters)
    relay = await MeasuredRelay(address, int(parameters.get("port") or 5432), longest_answer).open()
    try:
        connection = await ConfirmedConnection.connect(**(parameters | {"hostaddr": "127.0.0.1", "port": relay.port}))
    except psycopg.Error as error:
        relay.close()
        raise relay.explained(error) from None
    except BaseException:
        relay.close()
        raise
    connection.relay = relay
    connection.on_close(relay.close)
    return connection
