"""What the tests have measured, for the table of docs/gitops.md; __main__.py prints it at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def note(state: Path, line: str) -> None:
    """Keep a line."""
    with (state / "seen.txt").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


@contextmanager
def timed(state: Path, what: str) -> Iterator[None]:
    """Keep how long the block took."""
    began = time.monotonic()
    yield
    note(state, f"{time.monotonic() - began:6.1f} s  {what}")
