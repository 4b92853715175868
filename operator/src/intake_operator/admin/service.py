"""Carries requests out against an event's DB1 and ledger. Both are looked up anew for each request."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import batched
from typing import Any

import psycopg
from intake_shared.redaction import one_line
from psycopg import AsyncConnection

from intake_operator import names
from intake_operator.addresses import Address, read_address
from intake_operator.admin.answers import RefusedError
from intake_operator.admin.requests import MOST_PAYLOADS, Discard, Page, Payloads, Replay
from intake_operator.children import access
from intake_operator.database import connection as db1
from intake_operator.database import dead_letters
from intake_operator.database.databases import UNKNOWN_POOL
from intake_operator.decide.discard import LedgerKind, answered, discard
from intake_operator.kube.client import Cluster
from intake_operator.ledger.connection import connect
from intake_operator.ledger.consistency import ConsistencyChecks, Sides
from intake_operator.ledger.functions import void_function
from intake_operator.ledger.voiding import error_of, is_claim_error, void
from intake_operator.model.dead_letters import Content, DeadLetter, Discarding, Evidence, Refusal
from intake_operator.model.observed import Event, LedgerState, owned
from intake_operator.model.parse import parse
from intake_operator.model.secrets import text

logger = logging.getLogger(__name__)

type Decisions = dict[int, Evidence | Refusal]


@dataclass(frozen=True)
class AdminService:
    """What an authorized caller can do to one event.

    Usage: `await service.replay(await service.find("tickets", "taylor-drop"), Replay(ids=[7], reason="…"), user.name)`.
    """

    cluster: Cluster
    consistencies: ConsistencyChecks
    namespaces: tuple[str, ...] = ()
    """The namespaces that this operator serves; empty means all."""

    async def find(self, namespace: str, name: str) -> Event:
        """The event. Raises RefusedError 404."""
        if self.namespaces and namespace not in self.namespaces:
            raise RefusedError(
                404,
                "NotFound",
                f"namespace {namespace!r} is not served by this operator ({', '.join(self.namespaces)})",
            )
        body = await self.cluster.get(names.KIND, namespace, name)
        if body is None:
            raise RefusedError(
                404, "NotFound", f"{names.PLURAL}.{names.GROUP} {name!r} not found in namespace {namespace!r}"
            )
        return parse(body)

    async def dead_letters(self, event: Event, page: Page) -> list[DeadLetter]:
        """One page of dead letters, oldest first."""
        async with self.database(event, "monitor") as connection:
            return await dead_letters.page(connection, event.pool, page.limit, page.continue_ or 0)

    async def payloads(self, event: Event, request: Payloads, actor: str) -> dict[str, Any]:
        """What came with the claims of dead letters. It is recorded in the audit; the log gets only their number."""
        found = await self._contents(event, request.ids, actor, request.reason)
        _log(event, actor, request.reason, f"showed the payloads of {len(found)} dead letters")
        items = [found[number].shown() for number in sorted(found)]
        return {"items": items, "gone": _without(request.ids, set(found))}

    async def audit(self, event: Event, page: Page) -> list[dict[str, Any]]:
        """One page of the audit, latest first."""
        async with self.database(event, "monitor") as connection:
            entries = await dead_letters.audit(connection, event.pool, page.limit, page.continue_)
        return [entry.shown() for entry in entries]

    async def replay(self, event: Event, request: Replay, actor: str) -> dict[str, Any]:
        """Put dead letters back on the queue in their state. Ids that are not dead letters come back as `gone`."""
        async with self.database(event, "bridge") as connection:
            done = await dead_letters.replay(connection, event.pool, request.ids, actor, request.reason)
        _log(event, actor, request.reason, f"replayed {len(done)} of {len(request.ids)} dead letters")
        return {"replayed": sorted(done), "gone": _without(request.ids, done)}

    async def discard(self, event: Event, request: Discard, actor: str) -> dict[str, Any]:
        """Void claims in the ledger, then free all their slots. What may be committed is `refused` and stays."""
        async with self.database(event, "bridge") as connection:
            found = await dead_letters.with_ids(connection, event.pool, request.ids)
            decided = await self._decide(event, found, request, actor)
            by_evidence: dict[str, list[int]] = {}
            for number, decision in decided.items():
                if isinstance(decision, Evidence):
                    by_evidence.setdefault(decision.words, []).append(number)
            done: set[int] = set()
            discarding = Discarding(actor, request.reason, request.return_conflicts)
            for words, ids in by_evidence.items():
                done |= await dead_letters.discard(connection, event.pool, ids, discarding, words)
        refusals = {number: decision for number, decision in decided.items() if isinstance(decision, Refusal)}
        summary = f"discarded {len(done)} of {len(request.ids)} dead letters, {len(refusals)} refused"
        _log(event, actor, request.reason, summary)
        claims = {letter.id: letter.claim_id for letter in found}
        refused = [
            {"id": number, "claimId": str(claims[number]), "reason": each.reason, "message": each.message}
            for number, each in sorted(refusals.items())
        ]
        return {"discarded": sorted(done), "refused": refused, "gone": _without(request.ids, done | refusals.keys())}

    async def reconcile(self, event: Event) -> dict[str, Any]:
        """Compare DB1 with the ledger now, claim by claim."""
        ledger, function = await self.target(event)
        password = await self._password(event)
        verdict = await self.consistencies.check_now(Sides(event, access.host(event), password, ledger, function))
        return verdict.shown()

    @asynccontextmanager
    async def database(self, event: Event, role: str) -> AsyncIterator[AsyncConnection]:
        """A connection to DB1 as one of its roles. Raises RefusedError: 409 without DB1, 503 without an answer."""
        password = await self._password(event)
        try:
            async with db1.connect(access.host(event), password, role) as connection:
                yield connection
        except psycopg.errors.UndefinedFunction as error:
            why = f"DB1 is not ready, or the event began with a version that did not have this: {one_line(error)}"
            raise RefusedError(503, "NotReady", why, retry_after=5) from error
        except (psycopg.Error, OSError) as error:
            if isinstance(error, psycopg.Error) and error.sqlstate == UNKNOWN_POOL:
                raise RefusedError(503, "NotReady", "DB1 is being provisioned; try again", retry_after=5) from error
            raise RefusedError(
                503, "DatabaseUnavailable", f"DB1 did not answer: {one_line(error)}; try again", retry_after=5
            ) from error

    async def _password(self, event: Event) -> str:
        stateful_set = await self.cluster.get("StatefulSet", event.namespace, names.database(event.name))
        secret = await self.cluster.get("Secret", event.namespace, names.superuser_secret(event.name))
        if not (stateful_set and secret and owned(stateful_set, event.uid) and owned(secret, event.uid)):
            phase = event.status.get("phase") or "not reconciled yet"
            raise RefusedError(
                409,
                "NoDatabase",
                f"event {event.name!r} has no DB1 (phase {phase}): before provisioning there are no dead letters, and "
                "after completion the claims are in the report and in the ledger",
            )
        return text(secret, "password")

    async def target(self, event: Event) -> tuple[Address | None, str]:
        """Address and function of the event's Postgres ledger; None for a webhook. Raises RefusedError 409."""
        if event.spec is None:
            raise RefusedError(
                409, "SpecInvalid", f"the spec does not say where the ledger is: {event.spec_error}; correct it first"
            )
        postgres = event.spec.commit_target.postgres
        if postgres is None:
            return None, ""
        ledger = await read_address(self.cluster, postgres, event.namespace)
        # Never None: that is a webhook, whose claims are discarded by other rules.
        if isinstance(ledger, LedgerState):
            raise RefusedError(409, "LedgerSecretMissing", ledger.message)
        return ledger, postgres.function

    async def _contents(self, event: Event, ids: Sequence[int], actor: str, reason: str) -> dict[int, Content]:
        async with self.database(event, names.SUPERUSER) as connection:
            found = await dead_letters.contents(connection, event.pool, ids, actor, reason)
        return {each.id: each for each in found}

    async def _whole(
        self, event: Event, letters: Sequence[DeadLetter], actor: str, reason: str
    ) -> AsyncIterator[DeadLetter]:
        """The letters with payload and validation, as the ledger gets them; those that are none any more left out."""
        for part in batched(letters, MOST_PAYLOADS):
            found = await self._contents(
                event, [each.id for each in part], names.FIELD_MANAGER, f"sent to void_claim for {actor}: {reason}"
            )
            for letter in part:
                if content := found.get(letter.id):
                    yield replace(letter, payload=content.payload, validation=content.validation)

    async def _decide(self, event: Event, found: Sequence[DeadLetter], request: Discard, actor: str) -> Decisions:
        ledger_checked = request.ledger_checked
        ledger, function = await self.target(event)
        if ledger is None:
            return _without_ledger(found, LedgerKind.WEBHOOK, ledger_checked=ledger_checked)
        decided: Decisions = {}
        try:
            async with connect(ledger) as connection:
                void_claim = await void_function(connection, function)
                if void_claim is None:
                    return _without_ledger(found, LedgerKind.POSTGRES, ledger_checked=ledger_checked)
                async for letter in self._whole(event, found, actor, request.reason):
                    try:
                        word = await void(connection, void_claim, letter.as_json())
                    except psycopg.Error as error:
                        if not is_claim_error(error):
                            raise
                        decided[letter.id] = Refusal("LedgerRefused", f"void_claim failed: {error_of(error, letter)}")
                    else:
                        decided[letter.id] = answered(word)
        except (psycopg.Error, OSError) as error:
            # TimeoutError is an OSError. Claims that the ledger has answered for are discarded, the others are refused.
            message = f"the ledger did not answer: {one_line(error)}; nothing is decided, try again"
            if not decided:
                raise RefusedError(503, "LedgerUnavailable", message, retry_after=10) from error
            unanswered = [letter.id for letter in found if letter.id not in decided]
            decided |= dict.fromkeys(unanswered, Refusal("LedgerUnavailable", message))
        return decided


def _without_ledger(found: Sequence[DeadLetter], kind: LedgerKind, *, ledger_checked: bool) -> Decisions:
    decisions = {letter.id: discard(letter, kind, ledger_checked=ledger_checked) for letter in found}
    return {number: decision for number, decision in decisions.items() if decision is not None}


def _without(ids: Sequence[int], done: set[int]) -> list[int]:
    return sorted(set(ids) - done)


def _log(event: Event, actor: str, reason: str, message: str) -> None:
    extra = {"namespace": event.namespace, "event": event.name, "actor": actor, "reason": reason}
    logger.info(message, extra=extra)
