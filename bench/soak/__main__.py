"""`python -m bench.soak SECONDS`: run a soak and print its report. Exit code 1 if a rule of report.py does not hold."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.soak.report import checks, report
from bench.soak.run import soak


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("seconds", type=int, nargs="?", default=3600)
    parser.add_argument("--rate", type=int, default=100, help="claims a second")
    parser.add_argument("--report", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    found = soak(options.seconds, options.rate)
    text = report(found)
    print(text)
    if options.report:
        options.report.write_text(text, "utf-8")
    return 0 if all(check.good for check in checks(found)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
