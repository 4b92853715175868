"""Keys, tokens and authorities as people save them: what is not part of them is left out, what nobody sees is told."""

import hashlib
import hmac
from pathlib import Path

import pytest
import trustme
from intake_bridge.adapters.credentials import Credentials, keys_of, token_of
from intake_bridge.ports import TargetDownError
from scene import Scene, validation
from webhook_server import WebhookServer

MARK = "\ufeff"


def credentials(**values: str) -> Credentials:
    """Credentials that stay as they are, at the beginning of time."""

    async def source(part: str) -> str | None:
        return values.get(part)

    return Credentials(source, lambda: 0.0)


@pytest.mark.parametrize(
    "text", ["key", "key\n", "key\r\n", " key \r\n\r\n", "\nkey", "key\n   \n", "key\r", "\tkey\t"], ids=ascii
)
async def test_blanks_and_line_ends_are_no_part_of_a_key(text: str) -> None:
    ours = credentials(SIGNING_KEY=text)
    await ours.refresh()
    signed = hmac.new(b"key", b"0.{}", hashlib.sha256).hexdigest()
    assert ours.headers("c:commit", b"{}")["Intake-Signature"] == f"t=0,v1={signed}"


def test_a_key_may_be_of_any_letters_and_have_spaces_in_it() -> None:
    assert keys_of("old key\nneuer Schlüssel\u0085") == [b"old key", "neuer Schlüssel".encode()]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            f"{MARK}S3cret",
            "in line 1 of what signingSecretRef names, character 1 is U+FEFF (BYTE ORDER MARK), which nobod",
        ),
        (f"old\n{MARK}S3cret", "in line 2 of what signingSecretRef names, character 1 is U+FEFF"),
        ("S3\u200bcret", "character 3 is U+200B (ZERO WIDTH SPACE)"),
        ("S3\u00a0cret", "character 3 is U+00A0 (NO-BREAK SPACE)"),
        ("S3\x00cret", "character 3 is U+0000, which nobody can see"),
        ("S3\x0bcret", "character 3 is U+000B"),
        ("S3\u2028cret", "character 3 is U+2028 (LINE SEPARATOR)"),
    ],
)
def test_a_key_that_the_receiver_may_know_otherwise_is_refused_without_a_word_of_it(key: str, told: str) -> None:
    with pytest.raises(TargetDownError) as refusal:
        keys_of(key)
    assert told in str(refusal.value)
    assert "cret" not in str(refusal.value).replace("signingSecretRef", "")


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (f"{MARK}S3cret", "in what secretRef names, character 1 is U+FEFF (BYTE ORDER MARK), which nobody can see"),
        ("S3cret\nmore", "character 7 is U+000A"),
        ("Bearer S3cret", "has a space in it; a token is one word, without Bearer before it"),
        ("S3crét", "has letters that a header cannot carry"),
    ],
)
def test_a_token_that_no_header_can_carry_is_refused_without_a_word_of_it(token: str, told: str) -> None:
    with pytest.raises(TargetDownError) as refusal:
        token_of(token)
    assert told in str(refusal.value)
    assert "S3" not in str(refusal.value)


@pytest.mark.parametrize("before", [MARK, "Zertifikat für den Prüfer\n"])
async def test_an_authority_is_trusted_whatever_is_written_beside_it(before: str) -> None:
    pem = trustme.CA().cert_pem.bytes().decode()
    ours = credentials(CA=before + pem)
    await ours.refresh()
    assert ours.tls is not None
    assert len(ours.tls.get_ca_certs()) == 1


@pytest.mark.parametrize("content", ["Zertifikat für den Prüfer", MARK], ids=ascii)
async def test_an_authority_that_is_none_is_told(content: str) -> None:
    with pytest.raises(TargetDownError, match="holds no certificates in PEM"):
        await credentials(CA=content).refresh()


async def test_a_key_with_a_byte_order_mark_is_said_before_anything_is_read(
    scene: Scene, webhook: WebhookServer, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("key\n", encoding="utf-8-sig")
    await scene.configure(validation=validation(webhook.single), commitTarget={"webhook": {"url": webhook.single}})
    await scene.claim(3)
    async with scene.worker(INTAKE_COMMIT_SIGNING_KEY_FILE=str(file)):
        await scene.until_health("ledger", "down", "U+FEFF (BYTE ORDER MARK)")
        assert {row["read_ct"] for row in (await scene.queue()).values()} == {0}
        assert webhook.calls == []
        file.write_text("key\n")
        await scene.until_drained()
    assert webhook.signers(-1, "key") == ["key"]
