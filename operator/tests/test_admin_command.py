"""`intake-admin`: its messages, its exit codes, its tables, and which dead letters it acts on."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from intake_operator.admin.answers import RefusedError
from intake_operator.command import tables
from intake_operator.model.dead_letters import DeadLetter
from intake_shared.claims import Seat

from tests.patience import PATIENCE_SECONDS

COMMAND = Path(sys.executable).with_name("intake-admin")


def seat(slot: int, label: str | None) -> Seat:
    return Seat(slot_no=slot, resource_id=UUID(int=slot), label=label)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("dead-letters", "replay", "drop", "--reason=x"), 2, "by their ids, or give --all"),
        (("dead-letters", "replay", "drop", "7", "--all", "--reason=x"), 2, "by their ids, or give --all"),
        (("dead-letters", "replay", "drop", "--all", "--reason-like=x", "--reason=x"), 2, "or --reason-like TEXT"),
        (("dead-letters", "discard", "drop", "--reason-like= ", "--reason=x"), 2, "a part of the reason"),
        (("dead-letters", "discard", "drop", "7"), 2, "--reason"),
        (("reconcile", "drop", "--server=http://admin.example", "--token-file={token}"), 2, "https"),
        (("audit", "drop", "--server=http://127.0.0.1:1", "--token-file={token}"), 4, "does not answer"),
        (("audit", "drop", "--server=http://127.0.0.1:1", "--token-file=/nowhere"), 3, "/nowhere"),
        (("audit", "drop", "--server=https://127.0.0.1:99999", "--token-file={token}"), 2, "no URL"),
        (("audit", "drop"), 3, "kubectl create token"),
        (("dead-letters", "list", "drop", "--limit=0"), 2, "--limit"),
        (("dead-letters", "replay", "drop", "0", "--reason=x"), 2, "ID"),
        (("dead-letters", "payloads", "drop", "7"), 2, "--reason"),
        (("dead-letters", "payloads", "drop", "--reason=x"), 2, "ID"),
    ],
)
def test_the_command_says_what_to_do_and_exits_with_its_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    token, kubectl = tmp_path / "token", tmp_path / "kubectl"
    token.write_text("secret-token")
    kubectl.write_text('#!/bin/sh\necho \'{"users": [{"user": {"client-certificate": "x"}}]}\'\n')
    kubectl.chmod(0o755)
    line = [argument.format(token=token) for argument in arguments]
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [COMMAND, *line, "--namespace=tickets"],
        capture_output=True,
        text=True,
        check=False,
        env=where,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "secret-token" not in done.stdout + done.stderr


async def test_a_token_without_tls_goes_through_no_proxy_and_a_refused_reason_is_a_wrong_command_line(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token")
    proxied = []

    async def proxy(request: web.Request) -> web.Response:
        proxied.append(request.headers.get("Authorization"))
        return web.json_response({})

    async def refuse(_: web.Request) -> web.Response:
        return RefusedError(422, "Invalid", "the request is not valid: reason: say why").response()

    outside, api = web.Application(), web.Application()
    outside.router.add_route("*", "/{path:.*}", proxy)
    api.router.add_route("*", "/{path:.*}", refuse)
    async with TestServer(outside) as between, TestServer(api) as there:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "dead-letters", "replay", "drop", "7", "--reason= ", "--namespace=tickets"),
            *(f"--server={there.make_url('')}", f"--token-file={token}"),
            env={"PATH": os.environ["PATH"], "HTTP_PROXY": str(between.make_url(""))},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert (proxied, process.returncode) == ([], 2), errors


def test_a_table_has_no_character_that_moves_the_cursor(letter: DeadLetter) -> None:
    lines = tables.dead_letters([letter.shown() | {"reason": "\x1b[2Jgone\nnext"}]).splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("?[2Jgone?next")


def test_dead_letters_are_counted_by_reason_without_what_a_reason_quotes_of_its_claim(
    letter: DeadLetter,
) -> None:
    refused = [
        replace(
            letter,
            id=n,
            seats=(seat(n, "Row 1"), seat(n + 1, f"Row 1, seat {n}")),
            user_id=f"buyer-{n}",
            reason=f"commit: seat Row 1, seat {n} is not buyer-{n}'s",
        )
        for n in range(10, 13)
    ]
    down = [replace(letter, reason=reason) for reason in ("validate: answers 500", "validate: answers 502")]
    lines = tables.dead_letters_by_reason(each.shown() for each in [*down, *refused]).splitlines()
    assert [line.split(maxsplit=3)[::3] for line in lines] == [
        ["COUNT", "REASON"],
        ["3", "commit: seat … is not …'s"],
        ["1", "validate: answers 500"],
        ["1", "validate: answers 502"],
    ]


def test_the_seats_of_a_claim_are_one_cell(letter: DeadLetter) -> None:
    pair = replace(letter, seats=(seat(7, "A-7"), seat(8, "A-8")))
    many = replace(letter, id=2, seats=tuple(seat(n, f"B-{n}") for n in range(1, 13)))
    bare = replace(letter, id=3, seats=(seat(9, None),))
    lines = tables.dead_letters(each.shown() for each in (pair, many, bare)).splitlines()
    assert "7, 8 " in lines[1]
    assert "A-7, A-8 " in lines[1]
    assert "1, 2, 3, 4, 5, … (12) " in lines[2]
    assert "B-1, B-2, B-3, B-4, B-5, … (12) " in lines[2]
    assert lines[3].split()[3:5] == ["9", "validated"]


async def test_dead_letters_are_listed_and_replayed_by_a_part_of_their_reason(
    tmp_path: Path, letter: DeadLetter
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token")
    reasons = ["commit: Sold by hand", "validate: answers 500", "commit: sold by hand again"]
    items = [replace(letter, id=n, reason=reason).shown() for n, reason in enumerate(reasons, 1)]
    replayed: list[list[int]] = []

    async def listed(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {}, "items": items})

    async def replay(request: web.Request) -> web.Response:
        replayed.append((await request.json())["ids"])
        return web.json_response({"replayed": replayed[-1], "gone": []})

    api = web.Application()
    path = "/v1alpha1/namespaces/tickets/intakeevents/drop/deadletters"
    api.add_routes([web.get(path, listed), web.post(f"{path}/replay", replay)])
    async with TestServer(api) as there:

        async def run(*arguments: str) -> str:
            process = await asyncio.create_subprocess_exec(
                *(COMMAND, "dead-letters", *arguments, "--namespace=tickets", "--reason-like=SOLD by"),
                *(f"--server={there.make_url('')}", f"--token-file={token}"),
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
            assert process.returncode == 0
            return output.decode()

        table = await run("list", "drop")
        wide = await run("list", "drop", "--wide", "--limit=1")
        assert await run("replay", "drop", "--reason=mended") == "2 replayed\n"
    assert [line.split()[0] for line in table.splitlines()] == ["COUNT", "1", "1"]
    assert [line.split()[0] for line in wide.splitlines()] == ["ID", "1"]
    assert {"SLOTS", "LABELS", "RETRIES"} < set(wide.split())
    assert replayed == [[1, 3]]


async def test_payloads_are_shown_in_parts_and_those_that_are_gone_are_named(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token")
    asked: list[dict[str, Any]] = []

    async def shown(request: web.Request) -> web.Response:
        asked.append(await request.json())
        *ids, last = asked[-1]["ids"]
        items = [{"id": n, "payload": {"e-mail": f"ann{n}@example"}, "validation": None} for n in ids]
        return web.json_response({"items": items, "gone": [last]})

    api = web.Application()
    api.add_routes([web.post("/v1alpha1/namespaces/tickets/intakeevents/drop/deadletters/payloads", shown)])
    async with TestServer(api) as there:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "dead-letters", "payloads", "drop", *map(str, range(1, 151)), "--reason=a refund"),
            *("--namespace=tickets", f"--server={there.make_url('')}", f"--token-file={token}"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert [(len(each["ids"]), each["reason"]) for each in asked] == [(100, "a refund"), (50, "a refund")]
    lines = output.decode().splitlines()
    assert lines[0].split() == ["ID", "PAYLOAD", "VALIDATION"]
    assert lines[1].split() == ["1", '{"e-mail":', '"ann1@example"}', "null"]
    assert (len(lines), lines[-1], process.returncode) == (150, "not dead letters (any more): 100, 150", 1)
