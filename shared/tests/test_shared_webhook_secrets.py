"""Signing secrets and bearer tokens: what is accepted can be used, and what is refused is not quoted."""

import base64

from hypothesis import example, given
from hypothesis import strategies as st
from intake_shared.webhook_secrets import signing_secret_flaw, signing_secrets, token_flaw

OLD, NEW = ("whsec_" + base64.b64encode(bytes([first] * 32)).decode() for first in (1, 2))
VALUES = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\r\t\ufeff\u200b\u00a0ab")))


@given(VALUES)
@example("\ufeffkey")
@example("old\n\ufeffnew\r\n")
@example(f"{OLD}\n{NEW}\r\n")
@example(f"{OLD}=\n{NEW}\r\n")
def test_accepted_secrets_can_sign_and_refused_ones_are_told_by_line(text: str) -> None:
    if flaw := signing_secret_flaw(text, "of the Secret"):
        assert flaw.startswith("line ")
        assert " of the Secret " in flaw
    else:
        keys = [base64.b64decode(secret.removeprefix("whsec_"), validate=True) for secret in signing_secrets(text)]
        assert all(24 <= len(key) <= 64 for key in keys)


@given(VALUES)
@example("Bearer token")
def test_an_accepted_token_is_one_word_that_a_header_can_carry(token: str) -> None:
    good = token.isascii() and token.isprintable() and " " not in token
    assert (token_flaw(token) == "") == good


def test_two_secrets_of_a_file_from_another_system_are_read() -> None:
    assert signing_secrets(f"{OLD}\r\n {NEW} \n\n") == [OLD, NEW]
    assert signing_secret_flaw(f"{OLD}\r\n {NEW} \n\n") == ""
