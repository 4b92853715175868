"""Bounds what a server may send as one answer: libpq itself takes whatever comes, up to a gigabyte for one value.

No query can bound it. A view of the user's may fail with an error that quotes a value of any length, and what stands
behind a URI may be no PostgreSQL at all.
"""

import array
import fcntl
import termios

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Ready


class AnswerTooLongError(psycopg.OperationalError):
    """A server sent more than one answer may have."""


def measured[T](exchange: PQGen[T], socket: int, most: int) -> PQGen[T]:
    """The same exchange with a server, which is broken off after `most` bytes. Raises AnswerTooLongError.

    What is waiting in the socket is counted before libpq takes it.
    """
    taken = 0
    try:
        waits_for = next(exchange)
        while True:
            ready = yield waits_for
            if ready != Ready.W:  # also after a pause, when psycopg reads what there is
                taken += _waiting(socket)
            if taken > most:
                raise AnswerTooLongError(f"the server's answer has more than {most} bytes, the most that is read")
            waits_for = exchange.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def _waiting(socket: int) -> int:
    """Bytes that can be read from a socket at once."""
    count = array.array("i", [0])
    fcntl.ioctl(socket, termios.FIONREAD, count)
    return count[0]
