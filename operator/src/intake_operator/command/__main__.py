"""The console script `intake-admin`: dead letters, the audit, and the comparison with the ledger."""

import argparse
import json
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from intake_operator.command import show
from intake_operator.command.client import Client
from intake_operator.command.problem import Exit, ProblemError
from intake_operator.command.reach import TOKEN_VARIABLE, Kubectl, find_token

# Seconds. Discarding hundreds of letters is as many calls of an old ledger; comparing a million claims takes minutes.
TIMEOUT: Final = httpx.Timeout(600.0, connect=10.0)

type Group = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 -- it has no other name

EXIT_CODES: Final = """exit codes:
  0  done
  1  done, and something was refused or is not there any more; or the ledger does not agree
  2  the command line is wrong
  3  no token, or not the rights
  4  out of reach, or not possible now; the message says what to do"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers the exit code."""
    line = parser()
    options = line.parse_args(arguments)
    if "ids" in options and bool(options.ids) == options.all:
        line.error("name dead letters by their ids, or give --all")
    try:
        with reach(options) as client:
            deed: Callable[[Client, argparse.Namespace], Exit] = options.deed
            return deed(client, options)
    except ProblemError as problem:
        print(f"intake-admin: {problem}", file=sys.stderr)
        return problem.exit_code
    except BrokenPipeError:
        return Exit.DONE
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("event", help="name of the IntakeEvent")
    common.add_argument("-n", "--namespace", help="the event's; default: that of your kubectl context")
    common.add_argument("-o", "--output", choices=("table", "json"), default="table")
    way = common.add_argument_group("the way to the admin API")
    way.add_argument("--context", help="of your kubeconfig")
    way.add_argument("--operator-namespace", default="intake-system", help="default: %(default)s")
    way.add_argument("--operator", default="deploy/intake-engine", help="what to port-forward to; default: %(default)s")
    way.add_argument("--server", help="URL of the admin API, instead of kubectl port-forward")
    way.add_argument("--ca-file", type=Path, help="certificate authority of --server")
    way.add_argument(
        "--token-file", type=Path, help=f"bearer token, - for stdin; default: {TOKEN_VARIABLE}, then your kubeconfig"
    )
    top = argparse.ArgumentParser(
        prog="intake-admin",
        description="Dead letters of an IntakeEvent, and what its ledger says.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(where: Group, name: str, deed: Callable[..., Exit], told: str) -> argparse.ArgumentParser:
        made = where.add_parser(name, parents=[common], help=told, description=told)
        made.set_defaults(deed=deed)
        return made

    letters = commands.add_parser("dead-letters", help="list, replay or discard claims that gave up")
    deeds = letters.add_subparsers(required=True, metavar="COMMAND")
    listed = command(deeds, "list", list_letters, "claims that gave up and hold their slots, oldest first")
    replayed = command(deeds, "replay", replay, "put dead letters back on the queue, where they were")
    discarded = command(deeds, "discard", discard, "give claims up: void in the ledger, then free the slot")
    for made in (replayed, discarded):
        made.add_argument("ids", nargs="*", type=number, metavar="ID", help="as `list` shows them")
        made.add_argument("--all", action="store_true", help="every dead letter that there is now")
        made.add_argument("--reason", required=True, help="why; it is kept in the audit with your name")
    discarded.add_argument(
        "--target-checked",
        action="store_true",
        help="somebody has looked: a target that cannot promise it (a webhook, a ledger without void_claim) does not "
        "hold these sales",
    )
    audited = command(commands, "audit", audit, "who did what by hand, when and why; the latest first")
    for made in (listed, audited):
        made.add_argument("--limit", type=number, default=100, help="so many entries; default: %(default)s")
    command(commands, "reconcile", reconcile, "compare DB1 with the ledger, now, claim by claim")
    return top


def list_letters(client: Client, options: argparse.Namespace) -> Exit:
    """dead-letters list."""
    items = list(client.entries("deadletters", options.limit))
    if options.output == "json":
        _print_json({"items": items})
    elif items:
        print(show.dead_letters(items))
        if len(items) == options.limit:
            print(f"(the first {options.limit}; --limit shows more)", file=sys.stderr)
    else:
        print("no dead letters", file=sys.stderr)
    return Exit.DONE


def replay(client: Client, options: argparse.Namespace) -> Exit:
    """dead-letters replay."""
    return _act(client, options, "replay", "replayed", {"reason": options.reason})


def discard(client: Client, options: argparse.Namespace) -> Exit:
    """dead-letters discard."""
    request = {"reason": options.reason, "targetChecked": options.target_checked}
    return _act(client, options, "discard", "discarded", request)


def audit(client: Client, options: argparse.Namespace) -> Exit:
    """Audit."""
    items = list(client.entries("audit", options.limit))
    print_ = _print_json if options.output == "json" else lambda found: print(show.audit(found["items"]))
    print_({"items": items})
    return Exit.DONE


def reconcile(client: Client, options: argparse.Namespace) -> Exit:
    """Reconcile."""
    found = client.reconcile()
    if options.output == "json":
        _print_json(found)
    else:
        print(f"{found['status']} {found['reason']}: {found['message']}")
        if found["violations"]:
            print(show.table(("PROMISE", "BROKEN BY"), ((x["promise"], x["detail"]) for x in found["violations"])))
    return {"True": Exit.DONE, "False": Exit.NOT_ALL}.get(found["status"], Exit.FAILED)


def number(text: str) -> int:
    """1 or more: with a limit of 0 there would seem to be no dead letters."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("it is a number from 1 on")
    return value


@contextmanager
def reach(options: argparse.Namespace) -> Iterator[Client]:
    """A client of the event, over whichever way was chosen."""
    kubectl = Kubectl(options.context)
    namespace = options.namespace or kubectl.namespace()
    token = find_token(options.token_file, kubectl)
    with _server(options, kubectl) as url:
        try:
            verify = ssl.create_default_context(cafile=options.ca_file)
        except OSError as error:
            raise ProblemError(Exit.USAGE, f"--ca-file {options.ca_file} cannot be read: {error}") from error
        headers = {"Authorization": f"Bearer {token}"}
        # Where the token is not encrypted, no proxy of the environment gets it; no redirect takes it elsewhere.
        safe = urlsplit(url).scheme == "https"
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT, verify=verify, trust_env=safe) as http:
            yield Client(http, namespace, options.event)


@contextmanager
def _server(options: argparse.Namespace, kubectl: Kubectl) -> Iterator[str]:
    if not options.server:
        with kubectl.forward(options.operator_namespace, options.operator) as url:
            yield url
        return
    try:
        there = urlsplit(options.server)
        _ = there.port
    except ValueError as error:
        raise ProblemError(Exit.USAGE, f"--server {options.server!r} is no URL: {error}") from error
    if there.scheme != "https" and there.hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise ProblemError(Exit.USAGE, "--server must be an https URL: a token is not sent in the clear")
    yield options.server


def _act(client: Client, options: argparse.Namespace, deed: str, done: str, request: dict[str, object]) -> Exit:
    # All ids before the first is touched: what dies again meanwhile is another letter.
    ids = [item["id"] for item in client.entries("deadletters")] if options.all else options.ids
    whole: dict[str, list[Any]] = {done: [], "refused": [], "gone": []}
    for answer in client.act(deed, ids, request):
        for name in whole:
            whole[name] += answer.get(name, [])
        if options.output == "table":
            _tell(answer, done)
    if options.output == "json":
        _print_json(whole)
    elif not ids:
        print("no dead letters", file=sys.stderr)
    return Exit.NOT_ALL if whole["refused"] or whole["gone"] else Exit.DONE


def _tell(answer: dict[str, Any], done: str) -> None:
    print(f"{len(answer[done])} {done}")
    if answer["gone"]:
        ids = ", ".join(map(str, answer["gone"]))
        print(f"not dead letters (any more): {ids}")
    for each in answer.get("refused", ()):
        print(f"{each['id']} stays a dead letter ({each['reason']}): {each['message']}")


def _print_json(found: object) -> None:
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    sys.exit(main())
