"""`python -m bench.claims.settings --with name=value`: what a server setting does to claims.

One server runs with the operator's settings and one more for each `--with`; they take turns.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from bench.claims.pgbench import Load
from bench.claims.runs import ClaimRuns
from bench.common.figures import Measurement
from bench.common.results import Results
from bench.common.turns import comma_separated, in_turns, print_ratios


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims.settings")
    parser.add_argument("--with", dest="settings", action="append", required=True, metavar="NAME=VALUE[,NAME=VALUE…]")
    parser.add_argument("--only", type=comma_separated, default=["claim"], metavar="VARIANT,…")
    parser.add_argument("--clients", type=comma_separated, default=["32"], metavar="N,…")
    parser.add_argument("--slots", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        servers = {"as it is": stack.enter_context(ClaimRuns())}
        for each in options.settings:
            servers[each] = stack.enter_context(ClaimRuns(dict(pair.split("=", 1) for pair in each.split(","))))
        for variant in options.only:
            for clients in map(int, options.clients):
                measured = [Measurement(label, variant, clients, options.slots) for label in servers]
                for each in in_turns(Results("", quick=True), measured, options.rounds):
                    each.samples.append(servers[each.part].sample(variant, each.slots, Load(clients, options.seconds)))
                print_ratios(f"{variant}, {clients} clients", [(each.part, each) for each in measured])


if __name__ == "__main__":
    main(sys.argv[1:])
