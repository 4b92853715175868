"""`python -m bench.settings --with name=value`: what a server setting does to claims. Two servers, in turns."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from bench.claims import report, words
from bench.figures import Measurement
from bench.lab import Lab
from bench.parts import interleaved
from bench.pgbench import Load
from bench.results import Results


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.settings")
    parser.add_argument("--with", dest="settings", action="append", required=True, metavar="NAME=VALUE[,NAME=VALUE…]")
    parser.add_argument("--only", type=words, default=["claim"], metavar="VARIANT,…")
    parser.add_argument("--clients", type=words, default=["32"], metavar="N,…")
    parser.add_argument("--slots", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        labs = {"as it is": stack.enter_context(Lab())}
        for each in options.settings:
            labs[each] = stack.enter_context(Lab(dict(pair.split("=", 1) for pair in each.split(","))))
        for variant in options.only:
            for clients in map(int, options.clients):
                measured = [Measurement(label, variant, clients, options.slots) for label in labs]
                for each in interleaved(Results("", quick=True), measured, options.rounds):
                    each.samples.append(labs[each.part].sample(variant, each.slots, Load(clients, options.seconds)))
                report(f"{variant}, {clients} clients", [(each.part, each) for each in measured])


if __name__ == "__main__":
    main(sys.argv[1:])
