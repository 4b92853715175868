"""python -m tests.e2e [pytest's arguments]: the end-to-end tests, several modules side by side.

Most of their time is waiting: for a window, a queue, a pod. The tests marked `alone` stop or kill the operator, which
all events of the cluster share; they run afterwards, one by one. The operator is installed once, before both parts. It
is removed after them if it was not installed before.
"""

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.e2e import release
from tests.e2e.kube import Kube

HERE: Final = str(Path(__file__).parent)
# Three modules at once passed on two cores beside four busy processes; more were not tried.
SIDE_BY_SIDE: Final = ("-m", "not alone", "--numprocesses", "3", "--dist", "loadfile")
ONE_BY_ONE: Final = ("-m", "alone")


def main(arguments: list[str]) -> int:
    """Run both parts, and return the worse of their exit codes."""
    kube = Kube.connect()
    was_installed = release.is_installed(kube)
    release.install(kube)
    try:
        codes = {int(pytest.main([HERE, *part, *arguments])) for part in (SIDE_BY_SIDE, ONE_BY_ONE)}
    finally:
        if not was_installed:
            release.remove(kube)
    # A selection may leave one of the parts without a test, but not both.
    nothing = int(pytest.ExitCode.NO_TESTS_COLLECTED)
    return max(codes - {nothing}, default=nothing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
