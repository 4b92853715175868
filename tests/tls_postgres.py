"""A real PostgreSQL that lets nobody in without TLS, and an authority that makes certificates for it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import trustme
from intake_shared.certificates import Certificates

from tests.postgres import PostgresServer

# The one who may log in with a certificate of that name and without a password, and one who needs no certificate.
WRITER, ANYONE = "ledger_writer", "anyone"
# What its certificate is for. It also listens on an address that the certificate lacks.
HOSTS, NOT_ITS_HOST = ("localhost", "127.0.0.1"), "127.0.0.2"

_HBA = """
local   all all                        trust
hostssl all ledger_writer 127.0.0.0/8  cert
hostssl all anyone        127.0.0.0/8  trust
"""


@dataclass(frozen=True)
class TlsServer:
    """The server listens on TCP, under the host names of its certificate."""

    server: PostgresServer
    authority: trustme.CA

    @property
    def port(self) -> str:
        """The port on 127.0.0.1."""
        return self.server.settings["port"]

    def uri(self, host: str = "localhost", user: str = WRITER, database: str = "postgres", more: str = "") -> str:
        """A URI that says nothing of TLS by itself."""
        return f"postgresql://{user}@{host}:{self.port}/{database}{more}"

    def owner_uri(self, database: str = "postgres") -> str:
        """For the superuser, over the socket."""
        return f"{self.server.uri(database)}&port={self.port}"

    def trust(self, *authorities: trustme.CA) -> None:
        """Have the server accept certificates of these, once it has read them."""
        self._write("root.crt", "".join(map(pem, authorities)).encode())

    def reload(self) -> None:
        """Have the server read its certificates again."""
        os.kill(self.server.pid, signal.SIGHUP)

    def show(self, *hosts: str, authority: trustme.CA | None = None) -> None:
        """Have the server show a certificate for these names, once it has read it."""
        made = (authority or self.authority).issue_cert(*hosts)
        self._write("server.key", made.private_key_pem.bytes())
        self._write("server.crt", b"".join(blob.bytes() for blob in made.cert_chain_pems))

    def _write(self, name: str, content: bytes) -> None:
        data = self.server.directory / "data"
        owner = data.stat()
        (data / name).write_bytes(content)
        (data / name).chmod(0o600)
        os.chown(data / name, owner.st_uid, owner.st_gid)


def pem(authority: trustme.CA) -> str:
    """The authority's own certificate."""
    return authority.cert_pem.bytes().decode()


def certificates(authority: trustme.CA, issuer: trustme.CA | None = None, name: str = WRITER) -> Certificates:
    """Trusts `authority`; with `issuer` also shows a certificate of that name from it."""
    if issuer is None:
        return Certificates(pem(authority))
    own = issuer.issue_cert(common_name=name)
    chain = b"".join(blob.bytes() for blob in own.cert_chain_pems).decode()
    return Certificates(pem(authority), chain, own.private_key_pem.bytes().decode())


@contextmanager
def tls_postgres() -> Iterator[TlsServer]:
    """Started with a certificate for HOSTS."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    plain = PostgresServer({"listen_addresses": "127.0.0.1,127.0.0.2", "port": str(port)})
    with plain as server:
        secured = TlsServer(server, trustme.CA(organization_name="ours"))
        secured.show(*HOSTS)
        secured.trust(secured.authority)
        data = server.directory / "data"
        (data / "pg_hba.conf").write_text(_HBA)
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write("ssl = 'on'\nssl_ca_file = 'root.crt'\n")
        server.stop()
        server.start()
        yield secured
