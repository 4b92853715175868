"""A ledger that lets nobody in without TLS and a client certificate: a bridge sells to it, and says what is wrong."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import trustme
from intake_bridge.adapters.credentials import ledger_certificates
from intake_bridge.ports import DependencyDownError
from intake_bridge.settings import Secrets
from intake_shared.certificates import Certificates
from sale import Sale, Templates, log_lines, open_sale

from tests.postgres import install_ledger
from tests.tls_postgres import HOSTS, TlsServer, certificates, pem, tls_postgres

OTHERS = trustme.CA(organization_name="theirs")


@pytest.fixture(scope="module")
def ledger() -> Iterator[TlsServer]:
    with tls_postgres() as running:
        install_ledger(running.owner_uri())
        yield running


@pytest.fixture
async def secured(ledger: TlsServer, templates: Templates) -> AsyncIterator[Sale]:
    """A sale whose ledger is the one with TLS."""
    async with templates._intake() as intake_uri, open_sale(intake_uri, ledger.owner_uri(), 100) as sale:
        await sale.ledger.execute("TRUNCATE ledger.claims, ledger.sold_slots")
        yield sale


class Files:
    """What Kubernetes mounts, as files that a test may change while a bridge runs."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self.uri = uri

    def write(self, given: Certificates) -> dict[str, str]:
        """The bridge's variables."""
        contents = {"CA": given.authority, "CERT": given.certificate, "KEY": given.key}
        found = {"INTAKE_LEDGER_URI": self.uri}
        for name, text in contents.items():
            if text is not None:
                (self._folder / name).write_text(text)
                found[f"INTAKE_LEDGER_{name}_FILE"] = str(self._folder / name)
        return found


@pytest.fixture
def files(tmp_path: Path, ledger: TlsServer) -> Files:
    return Files(tmp_path, ledger.uri())


async def test_a_sale_goes_to_a_ledger_with_tls_and_a_client_certificate(
    secured: Sale, ledger: TlsServer, files: Files
) -> None:
    await secured.claim(20)
    environment = files.write(certificates(ledger.authority, ledger.authority))
    async with secured.process(**environment) as process:
        await secured.until_drained()
        process.terminate()
        assert process.stderr is not None
        log = await process.stderr.read()
    assert [line for line in log_lines(log) if line["level"] not in {"info", "debug"}] == []
    assert b"BEGIN" not in log
    await secured.check()
    assert len(await secured.sales()) == 20


async def test_whose_certificate_is_not_the_one_sells_nothing_until_the_files_are_right(
    secured: Sale, ledger: TlsServer, files: Files
) -> None:
    """Whoever rotates a Secret does not restart a bridge: the next connection reads the files again."""
    ours = ledger.authority
    await secured.claim(5)
    async with secured.worker(**files.write(certificates(OTHERS, ours))):
        await secured.until_health("ledger", "down", "certificate verify failed")
        files.write(certificates(ours, OTHERS))
        await secured.until_health("ledger", "down", "unknown ca")
        files.write(Certificates(None, pem(OTHERS), certificates(ours, ours).key))
        await secured.until_health("ledger", "down", "the private key does not belong to the certificate")
        assert {row["read_ct"] for row in (await secured.queue()).values()} == {0}
        files.write(certificates(ours, ours))
        await secured.until_drained()
        await _rotate_all(secured, ledger, files)
    await secured.check()


async def _rotate_all(sale: Sale, ledger: TlsServer, files: Files) -> None:
    """Another authority for both sides: the old certificates are worth nothing, and the bridge goes on."""
    after = trustme.CA(organization_name="ours, of next year")
    try:
        ledger.trust(after)
        ledger.show(*HOSTS, authority=after)
        ledger.reload()
        await sale.ledger.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ledger_writer'"
        )
        await sale.claim(5)
        await sale.until_health("ledger", "down", "certificate verify failed")
        files.write(certificates(after, after))
        await sale.until_drained()
    finally:
        ledger.trust(ledger.authority)
        ledger.show(*HOSTS)
        ledger.reload()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"CA": "S3cret"}, "what caSecretRef names cannot be used: it holds no certificate in PEM"),
        ({"CERT": "S3cret"}, "a client certificate and its key belong together"),
        ({"KEY": "S3cret"}, "a client certificate and its key belong together"),
        ({"CERT": "S3cret", "KEY": "S3cret"}, "what clientCertSecretRef names cannot be used: it holds no certificate"),
        ({"CERT": pem(OTHERS), "KEY": "S3cret"}, "it holds no private key in PEM"),
    ],
)
async def test_what_cannot_be_used_is_told_and_not_quoted(given: dict[str, str], told: str) -> None:
    secrets = Secrets({f"INTAKE_LEDGER_{name}": text for name, text in given.items()})
    with pytest.raises(DependencyDownError) as caught:
        await ledger_certificates(lambda part: secrets.optional(f"INTAKE_LEDGER_{part}"))
    assert told in str(caught.value)
    assert "S3cret" not in str(caught.value)


async def test_a_uri_that_goes_without_tls_contradicts_an_authority(
    secured: Sale, ledger: TlsServer, files: Files
) -> None:
    files.uri = ledger.uri(more="?sslmode=disable")
    async with secured.worker(**files.write(certificates(ledger.authority))):
        await secured.until_health("ledger", "down", "the URI says sslmode=disable")
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(files.uri)
