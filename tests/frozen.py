"""Hosts that accept a connection and never answer, as a stopped process does."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager


@contextmanager
def frozen_hosts() -> Iterator[list[str]]:
    """Yield two such hosts with their ports, as in a URI: one of IPv6, one of IPv4."""
    with ExitStack() as stack:
        six = stack.enter_context(closing(socket.create_server(("::1", 0), family=socket.AF_INET6)))
        four = stack.enter_context(closing(socket.create_server(("127.0.0.2", 0))))
        yield [f"[::1]:{six.getsockname()[1]}", f"127.0.0.2:{four.getsockname()[1]}"]
