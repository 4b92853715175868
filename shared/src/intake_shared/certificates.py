"""The certificates of a connection to a user's PostgreSQL: what they may be, and how libpq gets them.

libpq reads certificates and keys out of files alone. Here they are files in memory: no disk ever has a key, and they
are gone with the process, however it ends.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

# https://docs.kernel.org/userspace-api/mfd_noexec.html: a hardened node refuses a file in memory without it, and a
# kernel before 6.3 does not know it.
_NOEXEC_SEAL: Final = 0x0008


@dataclass(frozen=True)
class Certificates:
    """All in PEM. Without any, the URI alone says whether a connection uses TLS, and what it checks."""

    authority: str | None = field(default=None, repr=False)
    """The only authorities from which the server's certificate may come."""
    certificate: str | None = field(default=None, repr=False)
    """What we show to the server, with the authorities between it and a root."""
    key: str | None = field(default=None, repr=False)
    """The private key of `certificate`."""

    def __bool__(self) -> bool:
        return self.authority is not None or self.certificate is not None

    @contextmanager
    def files(self) -> Iterator[dict[str, str]]:
        """libpq's parameters that name the files, which exist until the end of the context."""
        contents = {"sslrootcert": self.authority, "sslcert": self.certificate, "sslkey": self.key}
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(_in_memory(name, text)) for name, text in contents.items() if text is not None
            }


NO_CERTIFICATES: Final = Certificates()


def certificate_flaw(text: str) -> str:
    """Why this is no certificate, or several of them, that can be read; empty if it is. Quotes nothing of it."""
    # A file may have comments in other letters. With empty `cadata` the system's authorities would be loaded.
    pem = text.encode("ascii", "ignore").decode()
    try:
        if pem:
            ssl.create_default_context(cadata=pem)
            return ""
    except (ssl.SSLError, ValueError):
        pass
    return "it holds no certificate in PEM"


def key_flaw(key: str, certificate: str) -> str:
    """Why this is no key for this certificate; empty if it is. Quotes nothing of either."""
    if "PRIVATE KEY-----" not in key:
        return "it holds no private key in PEM"
    if "ENCRYPTED" in key:
        return "the private key has a passphrase; store it without one"
    with Certificates(certificate=certificate, key=key).files() as files:
        try:
            # An empty password: without one OpenSSL would ask for it at the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files["sslcert"], files["sslkey"], password="")
        except (ssl.SSLError, ValueError) as error:
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                return "the private key does not belong to the certificate"
            return "it holds no private key that can be read"
    return ""


@contextmanager
def _in_memory(name: str, text: str) -> Iterator[str]:
    """The path of a file in memory with this text, which our user alone may read: libpq refuses other keys."""
    try:
        number = os.memfd_create(name, os.MFD_CLOEXEC | _NOEXEC_SEAL)
    except OSError:
        number = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(number, "wb", buffering=0) as file:
        os.fchmod(number, 0o600)
        file.write(text.encode())
        yield f"/proc/self/fd/{number}"
