"""Secrets, tokens and authorities as people save them: blanks are left out, invisible characters are refused."""

import base64
from pathlib import Path

import pytest
import trustme
from intake_bridge.adapters.credentials import Credentials, bearer_token, signing_secrets
from intake_bridge.ports import DependencyDownError
from sale import Sale, validation
from webhook_server import WebhookServer

MARK = "\ufeff"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def credentials(**values: str) -> Credentials:
    """Credentials that stay as they are, at the beginning of time."""

    async def source(part: str) -> str | None:
        return values.get(part)

    return Credentials(source, lambda: 0.0)


@pytest.mark.parametrize("before", ["", " ", "\n", "\t", "\r\n\r\n"], ids=ascii)
@pytest.mark.parametrize("after", ["", "\n", "\r\n", " \r\n\r\n", "\n   \n", "\r", "\t", "\u0085"], ids=ascii)
def test_blanks_and_line_ends_are_no_part_of_a_secret(before: str, after: str) -> None:
    assert signing_secrets(before + SECRET + after) == [SECRET]
    assert signing_secrets(f"{before}{SECRET}{after}\n{SECRET}") == [SECRET, SECRET]


@pytest.mark.parametrize("size", range(24, 65))
def test_a_secret_is_whsec_and_24_to_64_bytes(size: int) -> None:
    secret = "whsec_" + base64.b64encode(bytes(size)).decode()
    assert signing_secrets(secret) == [secret]


@pytest.mark.parametrize(
    "line",
    [
        "S3cret",
        "only the bridge and we know",
        "neuer Schlüssel",
        SECRET.removeprefix("whsec_"),
        SECRET.upper(),
        SECRET + "!",
        SECRET[:-1],
        "whsec_",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)
def test_a_line_of_another_form_is_refused_with_what_makes_a_secret(line: str) -> None:
    with pytest.raises(DependencyDownError) as refusal:
        signing_secrets(f"{SECRET}\n{line}")
    assert str(refusal.value) == (
        "line 2 of what signingSecretRef names is no signing secret: "
        "expected whsec_ and then 24 to 64 bytes in base64; "
        "make one with: echo whsec_$(openssl rand -base64 32)"
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            f"{MARK}S3cret",
            "line 1 of what signingSecretRef names has an invisible character: character 1 is U+FEFF (BYTE ORDER MARK)",
        ),
        (
            f"{SECRET}\n{MARK}S3cret",
            "line 2 of what signingSecretRef names has an invisible character: character 1 is U+FEFF",
        ),
        ("S3\u200bcret", "character 3 is U+200B (ZERO WIDTH SPACE)"),
        ("S3\u00a0cret", "character 3 is U+00A0 (NO-BREAK SPACE)"),
        ("S3\x00cret", "character 3 is U+0000; write the secret anew"),
        ("S3\x0bcret", "character 3 is U+000B"),
        ("S3\u2028cret", "character 3 is U+2028 (LINE SEPARATOR)"),
    ],
)
def test_a_secret_with_an_invisible_character_is_refused_and_not_quoted(key: str, message: str) -> None:
    with pytest.raises(DependencyDownError) as refusal:
        signing_secrets(key)
    assert message in str(refusal.value)
    assert "S3" not in str(refusal.value)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (f"{MARK}S3cret", "what secretRef names has an invisible character: character 1 is U+FEFF (BYTE ORDER MARK)"),
        ("S3cret\nmore", "character 7 is U+000A"),
        ("Bearer S3cret", "has a space in it; a token is one word, without Bearer before it"),
        ("S3crét", "has characters that a header cannot carry"),
    ],
)
def test_a_token_that_no_header_can_carry_is_refused_and_not_quoted(token: str, message: str) -> None:
    with pytest.raises(DependencyDownError) as refusal:
        bearer_token(token)
    assert message in str(refusal.value)
    assert "S3" not in str(refusal.value)


@pytest.mark.parametrize("before", [MARK, "Zertifikat für den Prüfer\n"])
async def test_an_authority_is_trusted_whatever_is_written_beside_it(before: str) -> None:
    pem = trustme.CA().cert_pem.bytes().decode()
    ours = credentials(CA=before + pem)
    await ours.refresh()
    assert ours.tls is not None
    assert len(ours.tls.get_ca_certs()) == 1


@pytest.mark.parametrize("content", ["Zertifikat für den Prüfer", MARK], ids=ascii)
async def test_a_file_without_authorities_is_reported(content: str) -> None:
    with pytest.raises(DependencyDownError, match="holds no certificates in PEM"):
        await credentials(CA=content).refresh()


async def test_a_secret_with_a_byte_order_mark_is_reported_before_anything_is_read(
    sale: Sale, webhook: WebhookServer, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n", encoding="utf-8-sig")
    await sale.configure(validation=validation(webhook.single), commitTarget={"webhook": {"url": webhook.single}})
    await sale.claim(3)
    async with sale.worker(INTAKE_COMMIT_SIGNING_SECRET_FILE=str(file)):
        await sale.until_health("ledger", "down", "U+FEFF (BYTE ORDER MARK)")
        assert {row["read_ct"] for row in (await sale.queue()).values()} == {0}
        assert webhook.calls == []
        file.write_text(f"{SECRET}\n")
        await sale.until_drained()
    assert webhook.signers(-1, SECRET) == [SECRET]
