"""Where requests are carried out: an event's DB1 and its ledger, looked up for each request."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from intake_shared.redaction import one_line
from psycopg import AsyncConnection

from intake_operator import names
from intake_operator.admin.answers import RefusedError
from intake_operator.admin.requests import Discard, Page, Replay
from intake_operator.children import access
from intake_operator.database import dead_letters
from intake_operator.database.databases import UNKNOWN_POOL
from intake_operator.decide.discard import Target, answered, discard
from intake_operator.kube.client import Cluster
from intake_operator.ledger import ledgers
from intake_operator.ledger.consistency import Consistencies, Sides
from intake_operator.model.dead_letters import DeadLetter, Evidence, Refusal
from intake_operator.model.observed import Event, owned
from intake_operator.model.parse import parse
from intake_operator.model.secrets import text

logger = logging.getLogger(__name__)

type Decisions = dict[int, Evidence | Refusal]


@dataclass(frozen=True)
class Desk:
    """Carries out what was asked of one event, by somebody who may."""

    cluster: Cluster
    consistencies: Consistencies
    namespaces: tuple[str, ...] = ()
    """Those that are served; empty means all."""

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
        """Dead letters, oldest first."""
        async with self.database(event, "monitor") as connection:
            return await dead_letters.page(connection, event.pool, page.limit, page.continue_ or 0)

    async def audit(self, event: Event, page: Page) -> list[dict[str, Any]]:
        """The audit, latest first."""
        async with self.database(event, "monitor") as connection:
            entries = await dead_letters.audit(connection, event.pool, page.limit, page.continue_)
        return [entry.shown() for entry in entries]

    async def replay(self, event: Event, asked: Replay, actor: str) -> dict[str, Any]:
        """Back on the queue, state kept. A repeated call finds none, and says so."""
        async with self.database(event, "bridge") as connection:
            done = await dead_letters.replay(connection, event.pool, asked.ids, actor, asked.reason)
        _log(event, actor, asked.reason, f"replayed {len(done)} of {len(asked.ids)} dead letters")
        return {"replayed": sorted(done), "gone": _without(asked.ids, done)}

    async def discard(self, event: Event, asked: Discard, actor: str) -> dict[str, Any]:
        """The ledger's word first, the slot after it. What cannot be given up stays a dead letter, with the reason."""
        async with self.database(event, "bridge") as connection:
            found = await dead_letters.named(connection, event.pool, asked.ids)
            decided = await self._decide(event, found, target_checked=asked.target_checked)
            by_evidence: dict[str, list[int]] = {}
            for number, decision in decided.items():
                if isinstance(decision, Evidence):
                    by_evidence.setdefault(decision.words, []).append(number)
            done: set[int] = set()
            for words, ids in by_evidence.items():
                done |= await dead_letters.discard(connection, event.pool, ids, actor, asked.reason, words)
        kept = {number: decision for number, decision in decided.items() if isinstance(decision, Refusal)}
        _log(event, actor, asked.reason, f"discarded {len(done)} of {len(asked.ids)} dead letters, {len(kept)} refused")
        claims = {letter.id: letter.claim_id for letter in found}
        refused = [
            {"id": number, "claimId": str(claims[number]), "reason": each.reason, "message": each.message}
            for number, each in sorted(kept.items())
        ]
        return {"discarded": sorted(done), "refused": refused, "gone": _without(asked.ids, done | kept.keys())}

    async def reconcile(self, event: Event) -> dict[str, Any]:
        """DB1 against the ledger, claim by claim, now."""
        uri, function = await self.target(event)
        password = await self._password(event)
        verdict = await self.consistencies.now(Sides(event, access.host(event), password, uri, function))
        return verdict.shown()

    @asynccontextmanager
    async def database(self, event: Event, role: str) -> AsyncIterator[AsyncConnection]:
        """DB1 as one of its roles. Raises RefusedError 409 where there is none, 503 where it does not answer."""
        password = await self._password(event)
        try:
            async with dead_letters.visit(access.host(event), password, role) as connection:
                yield connection
        except psycopg.errors.UndefinedFunction as error:
            raise RefusedError(503, "NotReady", f"DB1 is not ready: {one_line(error)}", retry_after=5) from error
        except (psycopg.Error, OSError) as error:
            if isinstance(error, psycopg.Error) and error.sqlstate == UNKNOWN_POOL:
                raise RefusedError(503, "NotReady", "DB1 is being provisioned; try again", retry_after=5) from error
            raise RefusedError(
                503, "DatabaseUnavailable", f"DB1 did not do it: {one_line(error)}; try again", retry_after=5
            ) from error

    async def _password(self, event: Event) -> str:
        stateful_set = await self.cluster.get("StatefulSet", event.namespace, names.database(event.name))
        secret = await self.cluster.get("Secret", event.namespace, names.superuser_secret(event.name))
        if not (stateful_set and secret and owned(stateful_set, event.uid) and owned(secret, event.uid)):
            phase = event.status.get("phase") or "not looked at yet"
            raise RefusedError(
                409,
                "NoDatabase",
                f"event {event.name!r} has no DB1 ({phase}): before it is provisioned there are no dead letters, and "
                "what became of a completed sale is in its report and in the ledger",
            )
        return text(secret, "password")

    async def target(self, event: Event) -> tuple[str, str]:
        """(URI, function) of the event's Postgres ledger; empty for a webhook. Raises RefusedError 409."""
        if event.spec is None:
            raise RefusedError(
                409, "SpecInvalid", f"the ledger is not known: {event.spec_error}; correct the spec first"
            )
        postgres = event.spec.commit_target.postgres
        if postgres is None:
            return "", ""
        ref = postgres.secret_ref
        secret = await self.cluster.get("Secret", event.namespace, ref.name)
        uri = text(secret, ref.key) if secret else ""
        # Empty means a webhook, whose claims are given up by other rules.
        if not uri:
            raise RefusedError(
                409,
                "LedgerSecretMissing",
                f"Secret {ref.name} is not there, or has no text under the key {ref.key}; correct it",
            )
        return uri, postgres.function

    async def _decide(self, event: Event, found: Sequence[DeadLetter], *, target_checked: bool) -> Decisions:
        uri, function = await self.target(event)
        if not uri:
            return _without_ledger(found, Target.WEBHOOK, target_checked=target_checked)
        decided: Decisions = {}
        try:
            async with ledgers.visit(uri, event.namespace) as connection:
                voider = await ledgers.voider(connection, function)
                if voider is None:
                    return _without_ledger(found, Target.POSTGRES, target_checked=target_checked)
                for letter in found:
                    try:
                        word = await ledgers.void(connection, voider, letter.payload())
                    except psycopg.Error as error:
                        if not ledgers.of_the_claim(error):
                            raise
                        decided[letter.id] = Refusal("LedgerRefused", f"void_claim failed: {one_line(error)}")
                    else:
                        decided[letter.id] = answered(word)
        except (psycopg.Error, OSError) as error:
            # TimeoutError is an OSError. Those that have their word are given up, the others are asked for again.
            told = f"the ledger did not answer: {one_line(error)}; nothing is decided, try again"
            if not decided:
                raise RefusedError(503, "LedgerUnavailable", told, retry_after=10) from error
            unasked = [letter.id for letter in found if letter.id not in decided]
            decided |= dict.fromkeys(unasked, Refusal("LedgerUnavailable", told))
        return decided


def _without_ledger(found: Sequence[DeadLetter], target: Target, *, target_checked: bool) -> Decisions:
    decisions = {letter.id: discard(letter, target, target_checked=target_checked) for letter in found}
    return {number: decision for number, decision in decisions.items() if decision is not None}


def _without(ids: Sequence[int], done: set[int]) -> list[int]:
    return sorted(set(ids) - done)


def _log(event: Event, actor: str, reason: str, message: str) -> None:
    where = {"namespace": event.namespace, "event": event.name, "actor": actor, "reason": reason}
    logger.info(message, extra=where)
