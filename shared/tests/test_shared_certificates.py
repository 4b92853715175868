"""Connections with certificates to a real PostgreSQL, and what is refused before one is made."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trustme
from intake_shared.certificates import (
    NO_CERTIFICATES,
    Certificates,
    certificate_flaw,
    key_flaw,
)
from intake_shared.connections import connect
from intake_shared.uris import secured
from psycopg.conninfo import conninfo_to_dict

from tests.tls_postgres import ANYONE, HOSTS, NOT_ITS_HOST, WRITER, TlsServer, certificates, pem, tls_postgres

OTHERS = trustme.CA(organization_name="theirs")


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    with tls_postgres() as running:
        for role in (WRITER, ANYONE):
            with psycopg.connect(running.owner_uri(), autocommit=True) as owner:
                owner.execute(f"CREATE ROLE {role} LOGIN".encode())
        yield running


def in_memory() -> list[str]:
    """The files that `Certificates.files` has open in this process."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return [each for each in found if "memfd:ssl" in each]


async def test_with_both_sides_known_a_session_is_encrypted_and_who_the_certificate_says(server: TlsServer) -> None:
    async with await connect(server.uri(), certificates=certificates(server.authority, server.authority)) as session:
        row = await (
            await session.execute("SELECT current_user, ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        ).fetchone()
        assert row == (WRITER, True, row and row[2])
        assert row is not None
        assert "/CN=ledger_w" in row[2]


@pytest.mark.parametrize(
    ("host", "given", "told"),
    [
        ("localhost", lambda ours: certificates(OTHERS, ours), "certificate verify failed"),
        (NOT_ITS_HOST, lambda ours: certificates(ours, ours), 'does not match host name "127.0.0.2"'),
        ("localhost", lambda ours: Certificates(pem(ours)), "connection requires a valid client certificate"),
        ("localhost", lambda ours: certificates(ours, OTHERS), "unknown ca"),
        ("localhost", lambda ours: certificates(ours, ours, "someone"), "certificate authentication failed"),
        ("localhost", lambda _: NO_CERTIFICATES, "connection requires a valid client certificate"),
    ],
)  # fmt: skip
async def test_a_side_that_is_not_the_one_is_refused_and_no_key_is_told(
    server: TlsServer, host: str, given: object, told: str
) -> None:
    mine: Certificates = given(server.authority)  # type: ignore[operator]
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect(server.uri(host), certificates=mine)
    assert told in str(caught.value)
    assert "BEGIN" not in str(caught.value)
    assert "PRIVATE KEY" not in repr(mine)
    assert in_memory() == []


async def test_another_name_may_be_checked_than_the_one_that_is_resolved(server: TlsServer) -> None:
    """The operator resolves `core.tickets.svc`, and the certificate has the URI's name, `core`."""
    ours = certificates(server.authority, server.authority)
    server.show("core")
    server.server.stop()
    server.server.start()
    try:
        with pytest.raises(psycopg.OperationalError, match='does not match host name "localhost"'):
            await connect(server.uri(), certificates=ours)
        async with await connect(server.uri(), certificates=ours, names={"localhost": "core"}) as session:
            assert session.info.host == "core"
    finally:
        server.show(*HOSTS)
        server.server.stop()
        server.server.start()


@pytest.mark.parametrize(("mode", "checks"), [("", True), ("?sslmode=verify-full", True), ("?sslmode=verify-ca", False),
    ("?sslmode=require", False)])  # fmt: skip
async def test_the_host_s_name_is_checked_unless_the_uri_says_otherwise(
    server: TlsServer, mode: str, checks: bool
) -> None:
    call = connect(server.uri(NOT_ITS_HOST, ANYONE, more=mode), certificates=Certificates(pem(server.authority)))
    if checks:
        with pytest.raises(psycopg.OperationalError, match="does not match host name"):
            await call
    else:
        await (await call).close()
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        await connect(server.uri(NOT_ITS_HOST, ANYONE, more=mode), certificates=Certificates(pem(OTHERS)))


@pytest.mark.parametrize(
    ("more", "ours", "told"),
    [
        ("sslmode=disable", Certificates("ca"), "the URI says sslmode=disable"),
        ("sslmode=S3cret", Certificates("ca"), "an sslmode that libpq does not know"),
        ("sslmode=prefer", Certificates("ca"), "remove it there, or caSecretRef"),
        ("sslmode=allow", Certificates(None, "crt", "key"), "remove it there, or clientCertSecretRef"),
        ("sslmode=verify-full&sslrootcert=system", Certificates("ca"), "sslrootcert=system, which trusts other"),
        ("sslcertmode=disable", Certificates("ca", "crt", "key"), "sslcertmode=disable"),
        ("gssencmode=require", Certificates("ca"), "gssencmode=require"),
    ],
)
async def test_a_uri_that_contradicts_the_certificates_is_refused(more: str, ours: Certificates, told: str) -> None:
    with pytest.raises(psycopg.ProgrammingError) as caught:
        await connect(f"postgresql://w:S3cret@core/ledger?{more}", certificates=ours)
    assert told in str(caught.value)
    assert "S3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "ours", "mode"),
    [
        ("postgresql://w@core/ledger", Certificates("ca"), "verify-full"),
        ("postgresql://w@core/ledger", Certificates("ca", "crt", "key"), "verify-full"),
        ("postgresql://w@core/ledger", Certificates(None, "crt", "key"), "require"),
        ("postgresql://w@core/ledger?sslrootcert=system", Certificates(None, "crt", "key"), "verify-full"),
        ("postgresql://w@core/ledger?sslmode=require", Certificates("ca"), "verify-ca"),
        ("postgresql://w@core/ledger?sslmode=verify-full", Certificates(None, "crt", "key"), "verify-full"),
        ("postgresql://w@core/ledger", NO_CERTIFICATES, None),
    ],
)
def test_what_is_checked(uri: str, ours: Certificates, mode: str | None) -> None:
    given = {name: str(value) for name, value in conninfo_to_dict(uri).items()}
    assert secured(given, ours).get("sslmode") == mode


async def test_a_statement_is_cancelled_over_a_connection_with_the_same_certificates(server: TlsServer) -> None:
    ours = certificates(server.authority, server.authority)
    session = await connect(server.uri(), certificates=ours, autocommit=True)
    assert len(in_memory()) == 3, "libpq reads them again to cancel"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await session.execute("SELECT pg_sleep(600)")
    assert not session.closed
    assert await (await session.execute("SELECT 1")).fetchone() == (1,)
    await session.close()
    assert in_memory() == []


@pytest.mark.filterwarnings("ignore:.*was deleted while still open")
async def test_a_connection_that_is_forgotten_leaves_no_file(server: TlsServer) -> None:
    session = await connect(server.uri(), certificates=certificates(server.authority, server.authority))
    assert len(in_memory()) == 3
    del session
    gc.collect()
    assert in_memory() == []


def test_a_key_is_readable_for_our_user_alone_and_gone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), Certificates("ca", "crt", "key").files() as files:  # noqa: PT012
        assert [Path(files[name]).read_text() for name in ("sslrootcert", "sslcert", "sslkey")] == ["ca", "crt", "key"]
        assert {Path(path).stat().st_mode & 0o777 for path in files.values()} == {0o600}
        raise ZeroDivisionError
    assert in_memory() == []


def test_what_is_no_certificate_and_no_key_is_told_without_a_word_of_it() -> None:
    ours = certificates(OTHERS, OTHERS)
    theirs = certificates(OTHERS, OTHERS, "another")
    assert ours.certificate is not None
    assert ours.key is not None
    assert theirs.key is not None
    assert [certificate_flaw(pem(OTHERS)), certificate_flaw(ours.certificate)] == ["", ""]
    assert key_flaw(ours.key, ours.certificate) == ""
    assert certificate_flaw(f"# Geschäftsführung\n{pem(OTHERS)}") == ""
    for text in ("", "S3cret", "S3crèt", ours.key, pem(OTHERS)[:200], pem(OTHERS).replace("M", "S3cret ", 1)):
        assert certificate_flaw(text) == "it holds no certificate in PEM", text
    assert key_flaw(theirs.key, ours.certificate) == "the private key does not belong to the certificate"
    assert key_flaw("S3cret", ours.certificate) == "it holds no private key in PEM"
    assert key_flaw(ours.certificate, ours.certificate) == "it holds no private key in PEM"
    assert key_flaw(ours.key[:100], ours.certificate) == "it holds no private key that can be read"
    assert "passphrase" in key_flaw(ours.key.replace("RSA PRIVATE", "ENCRYPTED PRIVATE").replace("EC PRIVATE",
        "ENCRYPTED PRIVATE"), ours.certificate)  # fmt: skip
    assert "passphrase" in key_flaw("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", ours.certificate)
