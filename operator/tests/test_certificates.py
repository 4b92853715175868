"""The operator and a PostgreSQL that lets nobody in without TLS and a client certificate: the ledger, and the hall."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import trustme
from intake_operator.addresses import Address
from intake_operator.admin.answers import RefusedError
from intake_operator.admin.requests import Discard
from intake_operator.admin.service import AdminService
from intake_operator.children import bridge
from intake_operator.children.bridge import Installation
from intake_operator.inventory.sources import open_source
from intake_operator.inventory.table import Table
from intake_operator.kube.client import Cluster
from intake_operator.ledger.account import read_account
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.connection import connect, ledger_key
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.ledger.pools import Pools
from intake_operator.long_reads import LongReads
from intake_operator.model import spec as model
from intake_operator.model.dead_letters import Content, DeadLetter, Evidence
from intake_operator.model.inventory import InventoryError
from intake_operator.model.observed import Event, LedgerState, Manifest, Observed
from intake_operator.model.proof import Account
from intake_operator.observe import Observer
from intake_operator.reasons import PoolReason, Problem
from intake_shared.certificates import Certificates

from tests.postgres import install_ledger
from tests.tls_postgres import HOSTS, TlsServer, certificates, pem, tls_postgres

type Make[T] = Callable[..., T]

ADDRESS = "127.0.0.1"  # a name without a dot is a Service in the event's namespace
OTHERS = trustme.CA(organization_name="theirs")
REFS = {"caSecretRef": {"name": "core-ca"}, "clientCertSecretRef": {"name": "core-tls"}}
LEDGER = {"postgres": {"secretRef": {"name": "core-ledger"}, **REFS}}
HALL = model.Inventory.model_validate({"table": {"secretRef": {"name": "core-ledger"}, "name": "hall", **REFS}})
NEVER = ConsistencyChecks(lambda: 0.0, LongReads(lambda _: None))


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsServer]:
    with tls_postgres() as running:
        install_ledger(running.owner_uri())
        with psycopg.connect(running.owner_uri(), autocommit=True) as owner:
            owner.execute("CREATE TABLE hall AS SELECT gen_random_uuid() AS resource_id, 'A-1' AS label")
            owner.execute("GRANT SELECT ON hall TO ledger_writer")
        yield running


class Secrets(Cluster):
    """The Secrets of namespace tickets, by name; there is nothing else."""

    def __init__(self, tls: TlsServer, given: Certificates | None = None, uri: str = "") -> None:
        ours = given or certificates(tls.authority, tls.authority)
        self.there: dict[str, dict[str, str | None]] = {
            "core-ledger": {"uri": uri or tls.uri(ADDRESS)},
            "core-ca": {"ca.crt": ours.authority},
            "core-tls": {"tls.crt": ours.certificate, "tls.key": ours.key},
        }

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        if (kind, namespace) != ("Secret", "tickets") or name not in self.there:
            return None
        encoded = {
            key: base64.b64encode(text.encode()).decode() for key, text in self.there[name].items() if text is not None
        }
        return {"metadata": {"uid": name}, "data": encoded}

    async def list_everywhere(self, kind: str, namespaces: Sequence[str]) -> list[Manifest]:
        return []


class WithoutDatabase(AdminService):
    """Nothing came with any claim."""

    async def _contents(self, event: Event, ids: Sequence[int], actor: str, reason: str) -> dict[int, Content]:
        return {number: Content(number, None, None) for number in ids}


@pytest.fixture
def selling(event: Make[Event], spec: Make[Any]) -> Event:
    return event(spec=spec(commitTarget=LEDGER))


async def inputs(secrets: Secrets, event: Event) -> tuple[Address | None, Observed]:
    """What a pass finds out about the ledger."""
    observer = Observer(secrets, None, LedgerChecks(lambda: 0.0), None, None, None, None, None)  # type: ignore[arg-type]
    assert event.spec is not None
    return await observer._inputs(event, event.spec, Observed())


async def test_ledger_pool_proof_voiding_and_hall_are_all_reached(
    tls: TlsServer, selling: Event, letter: DeadLetter
) -> None:
    """And the proof, the comparison and the recovery, which read the ledger with the same two functions."""
    secrets = Secrets(tls)
    ledger, observed = await inputs(secrets, selling)
    assert (observed.ledger, ledger is not None) == (LedgerState(), True)
    assert ledger is not None
    pool = await Pools(secrets, secrets, lambda: 0.0, LongReads(lambda _: None)).check_ahead(selling, ledger)
    assert pool.reason is PoolReason.UNUSED
    assert await read_account(ledger, selling.pool) == Account(0, 0, 0, 0)
    async with connect(ledger) as connection:
        row = await (await connection.execute("SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            ).fetchone()  # fmt: skip
        assert row is not None
        assert row[0] is True
        assert "CN=ledger_w" in row[1]
    decided = await WithoutDatabase(secrets, NEVER)._decide(selling, [letter], Discard(ids=[1], reason="a bot"), "ed")
    assert isinstance(decided[letter.id], Evidence)
    source, _ = await open_source(secrets, "tickets", HALL)
    assert await source.count(5) == 1
    assert [row.label async for chunk in source.chunks(5) for row in chunk] == ["A-1"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda ours: certificates(OTHERS, ours), "certificate verify failed"),
        (lambda ours: certificates(ours, OTHERS), "unknown ca"),
        (lambda ours: certificates(ours, ours, "someone"), "certificate authentication failed"),
    ],
)
async def test_the_wrong_certificate_is_told_for_ledger_and_hall(
    tls: TlsServer, selling: Event, given: Callable[[trustme.CA], Certificates], told: str
) -> None:
    secrets = Secrets(tls, given(tls.authority))
    _, observed = await inputs(secrets, selling)
    source, _ = await open_source(secrets, "tickets", HALL)
    with pytest.raises(InventoryError) as hall:
        await source.count(5)
    assert observed.ledger.problem is Problem.LEDGER_UNREACHABLE
    for message in (observed.ledger.message, str(hall.value)):
        assert told in message
        assert "BEGIN" not in message


async def test_without_a_client_certificate_nobody_is_let_in(tls: TlsServer) -> None:
    ledger = Address(tls.uri(ADDRESS), "tickets", Certificates(pem(tls.authority)))
    seen = await LedgerChecks(lambda: 0.0).check("uid", ledger, "finalize_transaction")
    assert "connection requires a valid client certificate" in seen.message


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("?sslmode=disable", "the URI says sslmode=disable"),
        ("?sslmode=prefer", "the URI says sslmode=prefer"),
        ("?sslrootcert=/etc/ca.pem", "sslrootcert= names a file that pods do not have"),
    ],
)
async def test_a_uri_that_says_the_contrary_is_refused_for_ledger_and_hall(
    tls: TlsServer, selling: Event, more: str, told: str
) -> None:
    secrets = Secrets(tls, uri=tls.uri(ADDRESS, more=more))
    _, observed = await inputs(secrets, selling)
    assert observed.ledger.problem is Problem.LEDGER_UNREACHABLE
    source, _ = await open_source(secrets, "tickets", HALL)
    with pytest.raises(InventoryError) as hall:
        await source.count(5)
    for message in (observed.ledger.message, str(hall.value)):
        assert told in message


@pytest.mark.parametrize(
    ("name", "content", "problem", "told"),
    [
        ("core-ca", None, Problem.LEDGER_SECRET_MISSING, "Secret core-ca does not exist in this namespace"),
        ("core-tls", None, Problem.LEDGER_SECRET_MISSING, "Secret core-tls does not exist in this namespace"),
        ("core-ca", {}, Problem.LEDGER_SECRET_KEY_MISSING, "Secret core-ca has no key ca.crt"),
        ("core-tls", {"tls.crt": pem(OTHERS)}, Problem.LEDGER_SECRET_KEY_MISSING, "Secret core-tls has no key tls.key"),
        ("core-ca", {"ca.crt": " \n"}, Problem.LEDGER_SECRET_KEY_MISSING, "has a blank value under the key ca.crt"),
        ("core-ca", {"ca.crt": "S3cret"}, Problem.LEDGER_SECRET_KEY_MISSING, "ca.crt: it holds no certificate in PEM"),
        (
            "core-tls",
            {"tls.crt": "S3cret", "tls.key": "S3cret"},
            Problem.LEDGER_SECRET_KEY_MISSING,
            "tls.crt: it holds no certificate in PEM",
        ),
        (
            "core-tls",
            {"tls.crt": pem(OTHERS), "tls.key": "S3cret"},
            Problem.LEDGER_SECRET_KEY_MISSING,
            "tls.key: it holds no private key in PEM",
        ),
        (
            "core-tls",
            {"tls.crt": pem(OTHERS), "tls.key": certificates(OTHERS, OTHERS).key},
            Problem.LEDGER_SECRET_KEY_MISSING,
            "tls.key: the private key does not belong to the certificate",
        ),
    ],
)
async def test_a_secret_that_cannot_be_used_is_told_before_anything_is_called(
    tls: TlsServer, selling: Event, name: str, content: dict[str, str] | None, problem: Problem, told: str
) -> None:
    secrets = Secrets(tls)
    if content is None:
        del secrets.there[name]
    else:
        secrets.there[name] = dict(content)
    ledger, observed = await inputs(secrets, selling)
    assert (ledger, observed.ledger.problem) == (None, problem), "nothing is asked without the certificates"
    with pytest.raises(InventoryError) as hall:
        await open_source(secrets, "tickets", HALL)
    assert hall.value.problem is Problem.INVENTORY_MISSING
    with pytest.raises(RefusedError) as refused:
        await AdminService(secrets, NEVER).target(selling)
    assert (refused.value.code, refused.value.reason) == (409, "LedgerSecretMissing")
    for message in (observed.ledger.message, str(hall.value), str(refused.value)):
        assert told in message
        assert "S3cret" not in message


async def test_the_certificate_needs_the_name_that_the_uri_has_and_no_other(
    tls: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge reaches Service core by this name, the operator only by core.tickets.svc."""
    asked = []

    async def resolved(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(0, 0, 0, "", ("127.0.0.1", int(tls.port)))]

    def checks(ledger: Address) -> Awaitable[LedgerState]:
        return LedgerChecks(lambda: 0.0).check("uid", ledger, "finalize_transaction")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    ours = certificates(tls.authority, tls.authority)
    restarted(tls, "core")
    try:
        assert await checks(Address(tls.uri("core"), "tickets", ours)) == LedgerState()
        assert asked == ["core.tickets.svc"]
        other = await checks(Address(tls.uri("core-2"), "tickets", ours))
        assert 'does not match host name "core-2"' in other.message
    finally:
        restarted(tls, *HOSTS)


def restarted(tls: TlsServer, *hosts: str) -> None:
    """Have the server show another certificate."""
    tls.show(*hosts)
    tls.server.stop()
    tls.server.start()


async def test_a_rotated_certificate_is_checked_at_once(tls: TlsServer) -> None:
    checks = LedgerChecks(lambda: 0.0)
    wrong = Address(tls.uri(ADDRESS), "tickets", certificates(tls.authority, OTHERS))
    right = replace(wrong, certificates=certificates(tls.authority, tls.authority))
    assert (await checks.check("uid", wrong, "finalize_transaction")).problem is Problem.LEDGER_UNREACHABLE
    assert await checks.check("uid", right, "finalize_transaction") == LedgerState()
    assert (await checks.check("uid", wrong, "finalize_transaction")).problem is Problem.LEDGER_UNREACHABLE


async def test_a_ledger_stays_the_same_ledger_when_its_certificates_change(tls: TlsServer, selling: Event) -> None:
    bare = Address(tls.uri(ADDRESS), "tickets")
    assert ledger_key(bare, "f") == ledger_key(replace(bare, certificates=certificates(OTHERS, OTHERS)), "f")
    assert ledger_key(bare, "f") is not None


async def test_a_change_of_each_secret_replaces_the_bridges_and_no_secret_is_in_the_manifest(
    tls: TlsServer, selling: Event, installation: Installation
) -> None:
    secrets = Secrets(tls)
    assert selling.spec is not None
    words = []
    for name in ("core-ledger", "core-ca", "core-tls", None):
        _, observed = await inputs(secrets, selling)
        made = bridge.deployment(selling, selling.spec, installation, observed.input_fingerprints)
        words.append(made["spec"]["template"]["metadata"]["annotations"])
        assert "BEGIN" not in str(made)
        if name:
            secrets.there[name]["more"] = "x"
    assert len({str(each) for each in words}) == 4
    files = {
        each["name"]: each.get("value") for each in made["spec"]["template"]["spec"]["containers"][0]["env"]
    }  # fmt: skip
    sources = {each["name"]: each["secret"] for each in made["spec"]["template"]["spec"]["volumes"] if "secret" in each}
    for part, secret, key in (
        ("ca", "core-ca", "ca.crt"),
        ("cert", "core-tls", "tls.crt"),
        ("key", "core-tls", "tls.key"),
    ):
        assert files[f"INTAKE_LEDGER_{part.upper()}_FILE"] == f"{bridge.MOUNT}/ledger-{part}/value"
        source = sources[f"ledger-{part}"]
        assert (source["secretName"], source["items"]) == (secret, [{"key": key, "path": "value"}])
    assert "core-" not in str(selling.spec.engine_config())


def test_a_key_is_in_no_representation(tls: TlsServer) -> None:
    """What is represented ends up in logs and tracebacks."""
    ledger = Address(tls.uri(ADDRESS), "tickets", certificates(tls.authority, tls.authority))
    assert "BEGIN" not in repr(ledger)
    assert "BEGIN" not in repr(Table(ledger, "hall"))
