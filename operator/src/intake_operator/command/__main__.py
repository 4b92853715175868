"""The console script `intake-admin`: dead letters, seats off sale, the audit, and the comparison with the ledger."""

import argparse
import json
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from intake_operator.command import seats, tables
from intake_operator.command.client import Answer, Client
from intake_operator.command.kubectl import TOKEN_VARIABLE, Kubectl, find_token
from intake_operator.command.problem import Exit, ProblemError

# Seconds. Discarding 500 dead letters is 500 calls of a slow ledger; comparing a million claims takes minutes.
TIMEOUT: Final = httpx.Timeout(600.0, connect=10.0)

type Group = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 -- it has no other name

EXIT_CODES: Final = """exit codes:
  0  done
  1  done, but not for all: refused, no dead letter any more, a claimed or unknown seat; or the ledger does not agree
  2  the command line is wrong
  3  there is no token, or it lacks the rights
  4  the admin API does not answer, or cannot do it now; the message says what to do"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    command_line = parser()
    options = command_line.parse_args(arguments)
    if "ids" in options and [bool(options.ids), options.all, bool(options.reason_like)].count(True) != 1:
        command_line.error("name dead letters by their ids, or give --all, or --reason-like TEXT")
    try:
        with connect(options) as client:
            action: Callable[[Client, argparse.Namespace], Exit] = options.action
            return action(client, options)
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
    common.add_argument("-n", "--namespace", help="the event's namespace; default: that of your kubectl context")
    common.add_argument("-o", "--output", choices=("table", "json"), default="table")
    connection = common.add_argument_group("connection to the admin API")
    connection.add_argument("--context", help="of your kubeconfig")
    connection.add_argument("--operator-namespace", default="intake-system", help="default: %(default)s")
    connection.add_argument(
        "--operator", default="deploy/intake-engine", help="what to port-forward to; default: %(default)s"
    )
    connection.add_argument("--server", help="URL of the admin API, instead of kubectl port-forward")
    connection.add_argument("--ca-file", type=Path, help="certificate authority of --server")
    connection.add_argument(
        "--token-file", type=Path, help=f"bearer token, - for stdin; default: {TOKEN_VARIABLE}, then your kubeconfig"
    )
    top = argparse.ArgumentParser(
        prog="intake-admin",
        description="Dead letters of an IntakeEvent, seats off sale, the audit, and the comparison with the ledger.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(group: Group, name: str, action: Callable[..., Exit], summary: str) -> argparse.ArgumentParser:
        made = group.add_parser(name, parents=[common], help=summary, description=summary)
        made.set_defaults(action=action)
        return made

    dead_letters = commands.add_parser(
        "dead-letters", help="list, replay or discard claims that gave up; show their payloads"
    )
    group = dead_letters.add_subparsers(required=True, metavar="COMMAND")
    listing = command(group, "list", list_dead_letters, "how many claims gave up and keep their slots, by reason")
    replaying = command(group, "replay", replay, "put dead letters back on the queue, in the state they were in")
    discarding = command(group, "discard", discard, "void claims in the ledger, then free their slots")
    showing = command(
        group, "payloads", payloads, "show what came with claims: payload and validation; needs its own right"
    )
    showing.add_argument("shown", nargs="+", type=number, metavar="ID", help="as `list --wide` shows them")
    for made in (replaying, discarding):
        made.add_argument("ids", nargs="*", type=number, metavar="ID", help="as `list --wide` shows them")
        made.add_argument("--all", action="store_true", help="every dead letter that there is now")
    for made in (replaying, discarding, showing):
        made.add_argument("--reason", required=True, help="why you do it; kept in the audit with your name")
    for made in (listing, replaying, discarding):
        made.add_argument(
            "--reason-like",
            type=search_text,
            metavar="TEXT",
            help="the dead letters with TEXT in their reason; upper and lower case are the same",
        )
    listing.add_argument("--wide", action="store_true", help="list each dead letter, oldest first")
    discarding.add_argument(
        "--ledger-checked",
        action="store_true",
        help="you have checked that the ledger does not hold these sales; for one that cannot void a claim (a webhook, "
        "a ledger without void_claim)",
    )
    discarding.add_argument(
        "--return-conflicts",
        action="store_true",
        help="put the seats of conflicts on sale again, too; otherwise they are withheld, because the ledger says that "
        "one of them belongs to another sale",
    )
    auditing = command(
        commands,
        "audit",
        audit,
        "who replayed, discarded, withheld, returned, sealed or saw payloads, when and why; the latest first",
    )
    listing.add_argument("--limit", type=number, default=100, help="of --wide and -o json; default: %(default)s")
    auditing.add_argument("--limit", type=number, default=100, help="at most so many entries; default: %(default)s")
    of_seats = commands.add_parser("seats", help="withhold seats from sale, return and list them")
    seats.add(of_seats.add_subparsers(required=True, metavar="COMMAND"), command, number)
    command(commands, "reconcile", reconcile, "compare DB1 with the ledger, now, claim by claim")
    return top


def list_dead_letters(client: Client, options: argparse.Namespace) -> Exit:
    """Print the dead letters: by reason, or with --wide or -o json one by one."""
    one_by_one = options.wide or options.output == "json"
    items = list(_dead_letters(client, options.reason_like, options.limit if one_by_one else None))
    if options.output == "json":
        _print_json({"items": items})
    elif not items:
        print("no dead letters", file=sys.stderr)
    elif options.wide:
        print(tables.dead_letters(items))
        if len(items) == options.limit:
            print(f"(the first {options.limit}; --limit shows more)", file=sys.stderr)
    else:
        print(tables.dead_letters_by_reason(items))
        print("(--wide lists each; replay and discard take --reason-like TEXT)", file=sys.stderr)
    return Exit.DONE


def replay(client: Client, options: argparse.Namespace) -> Exit:
    """Put dead letters back on the queue, and print which."""
    return _act(client, options, "replay", "replayed", {"reason": options.reason})


def discard(client: Client, options: argparse.Namespace) -> Exit:
    """Void the claims of dead letters in the ledger and free their slots; print which, and which were refused."""
    request = {
        "reason": options.reason,
        "ledgerChecked": options.ledger_checked,
        "returnConflicts": options.return_conflicts,
    }
    return _act(client, options, "discard", "discarded", request)


def payloads(client: Client, options: argparse.Namespace) -> Exit:
    """Print payload and validation of these dead letters. They may hold personal data."""
    items: list[Answer] = []
    gone: list[int] = []
    for answer in client.act("payloads", options.shown, {"reason": options.reason}):
        items += answer["items"]
        gone += answer["gone"]
    if options.output == "json":
        _print_json({"items": items, "gone": gone})
    else:
        if items:
            print(tables.payloads(items))
        _print_gone(gone)
    return Exit.NOT_ALL if gone else Exit.DONE


def audit(client: Client, options: argparse.Namespace) -> Exit:
    """Print what people did by hand, newest first."""
    items = list(client.entries("audit", options.limit))
    print_ = _print_json if options.output == "json" else lambda found: print(tables.audit(found["items"]))
    print_({"items": items})
    return Exit.DONE


def reconcile(client: Client, options: argparse.Namespace) -> Exit:
    """Compare DB1 with the ledger now, and print the verdict and what contradicts it."""
    found = client.reconcile()
    if options.output == "json":
        _print_json(found)
    else:
        print(f"{found['status']} {found['reason']}: {found['message']}")
        if found["violations"]:
            print(
                tables.table(("INVARIANT", "BROKEN BY"), ((x["invariant"], x["detail"]) for x in found["violations"]))
            )
    return {"True": Exit.DONE, "False": Exit.NOT_ALL}.get(found["status"], Exit.FAILED)


def number(text: str) -> int:
    """1 or more. A limit of 0 would look as if there were none."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("give a number of 1 or more")
    return value


def search_text(text: str) -> str:
    """Not blank: that would be in every reason, which --all says more clearly."""
    if not text.strip():
        raise argparse.ArgumentTypeError("give a part of the reason")
    return text


@contextmanager
def connect(options: argparse.Namespace) -> Iterator[Client]:
    """A client for the event, by kubectl port-forward or --server."""
    kubectl = Kubectl(options.context)
    namespace = options.namespace or kubectl.namespace()
    token = find_token(options.token_file, kubectl)
    with _server(options, kubectl) as url:
        try:
            verify = ssl.create_default_context(cafile=options.ca_file)
        except OSError as error:
            raise ProblemError(Exit.USAGE, f"--ca-file {options.ca_file} cannot be read: {error}") from error
        headers = {"Authorization": f"Bearer {token}"}
        # Without TLS the token must not go through a proxy that the environment names. httpx follows no redirects.
        encrypted = urlsplit(url).scheme == "https"
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT, verify=verify, trust_env=encrypted) as http:
            yield Client(http, namespace, options.event)


@contextmanager
def _server(options: argparse.Namespace, kubectl: Kubectl) -> Iterator[str]:
    if not options.server:
        with kubectl.forward(options.operator_namespace, options.operator) as url:
            yield url
        return
    try:
        server = urlsplit(options.server)
        _ = server.port
    except ValueError as error:
        raise ProblemError(Exit.USAGE, f"--server {options.server!r} is no URL: {error}") from error
    if server.scheme != "https" and server.hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise ProblemError(Exit.USAGE, "--server must be an https URL: a token is not sent in the clear")
    yield options.server


def _act(client: Client, options: argparse.Namespace, action: str, done: str, request: dict[str, object]) -> Exit:
    # All ids before the first change: a claim that fails again meanwhile is another dead letter.
    ids = options.ids or [item["id"] for item in _dead_letters(client, options.reason_like)]
    total: dict[str, list[Any]] = {done: [], "refused": [], "gone": []}
    for answer in client.act(action, ids, request):
        for name in total:
            total[name] += answer.get(name, [])
        if options.output == "table":
            _print_outcome(answer, done)
    if options.output == "json":
        _print_json(total)
    elif not ids:
        print("no dead letters", file=sys.stderr)
    return Exit.NOT_ALL if total["refused"] or total["gone"] else Exit.DONE


def _dead_letters(client: Client, reason_like: str | None, most: int | None = None) -> Iterator[Answer]:
    if reason_like is None:
        return client.entries("deadletters", most)
    wanted = reason_like.casefold()
    return islice((item for item in client.entries("deadletters") if wanted in (item["reason"] or "").casefold()), most)


def _print_outcome(answer: Answer, done: str) -> None:
    print(f"{len(answer[done])} {done}")
    _print_gone(answer["gone"])
    for each in answer.get("refused", ()):
        print(f"{each['id']} stays a dead letter ({each['reason']}): {each['message']}")


def _print_gone(ids: Sequence[int]) -> None:
    if ids:
        print(f"not dead letters (any more): {', '.join(map(str, ids))}")


def _print_json(found: object) -> None:
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    sys.exit(main())
