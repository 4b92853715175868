"""`intake-bridge`: run one worker until SIGTERM or SIGINT."""

import asyncio
import signal
import sys


def main() -> None:
    """The console script.

    Process 1 of a container gets no signal that it has no handler for, and the imports take seconds on a busy node:
    until the real handler is there, SIGTERM ends a process that has not begun anything.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from intake_bridge.process import run  # noqa: PLC0415 -- after the handler

    sys.exit(asyncio.run(run()))


if __name__ == "__main__":
    main()
