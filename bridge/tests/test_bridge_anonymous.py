"""What a dependency says about a claim is shown without what belongs to the claim's people."""

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from intake_bridge.domain.anonymous import anonymous, reported, told
from intake_bridge.domain.message import Message
from intake_bridge.domain.outcomes import Outcome, Result
from unserved_webhook import message

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=4)


def about(payload: object = None, validation: object = None) -> Message:
    """A message with these."""
    return replace(
        message(1),
        user_id="buyer-7",
        request_id="r-9",
        payload=None if payload is None else json.dumps(payload, ensure_ascii=False),
        validation=None if validation is None else json.dumps(validation, ensure_ascii=False),
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('invalid input syntax for type integer: "Zoë Smït"', 'invalid input syntax for type integer: "…"'),
        ("no such card 4111111111111111", "no such card …"),
        ("no such card 4111111111111111 of 500", "no such card … of 500"),
        ("nobody at 1 Main St, 4th floor", "nobody at …"),
        ('it says "quo\\"ted" and quo"ted', 'it says "…" and …'),
        ("what of pay_7f and of paypay_7fpay", "what of … and of pay…pay"),
        ("a de b dear", "a … b dear"),
        ("the field e-mail is not unique", "the field … is not unique"),
        ("user buyer-7 wants r-9, buyer-77 does not", "user … wants …, buyer-77 does not"),
        ('it got {"name": "Zo\\u00eb Sm\\u00EFt"}', 'it got {"…": "…"}'),
        ("nothing of theirs", "nothing of theirs"),
    ],
)
def test_every_string_of_payload_and_validation_and_every_long_number_is_taken_out(text: str, shown: str) -> None:
    payload = {
        "name": "Zoë Smït",
        "number": 4111111111111111,
        "price": 500,
        "address": ["1 Main St", "1 Main St, 4th floor", "floor"],
        "odd": 'quo"ted',
        "language": "de",
        "e-mail": None,
    }
    claim = about(payload, {"payment_id": "pay_7f"})
    assert anonymous(text, [claim]) == shown


@given(st.lists(TEXTS, min_size=1, max_size=5), st.lists(st.text(), max_size=5))
def test_no_string_survives_however_they_overlap(secrets: list[str], words: list[str]) -> None:
    text = "".join(part for pair in zip([*secrets, *words], [*words, *secrets], strict=True) for part in pair)
    shown = anonymous(text, [about({"these": secrets})])
    assume("…" not in text)
    for secret in secrets:
        assert secret not in shown


def test_what_an_answer_adds_is_taken_out_as_well() -> None:
    outcome = Outcome(Result.RETRY, reason="order A-4711 of Zoë")
    assert reported(outcome, [about({"name": "Zoë"})], '{"order_no": "A-4711"}').reason == "order … of …"
    assert reported(Outcome(Result.RETRY), [about()]).reason is None


def test_a_string_is_taken_out_before_a_text_is_cut_or_a_credential_is() -> None:
    """Of a part of it nobody could tell whose it is."""
    secret = "bearer of this card " + "4111 " * 30
    claim = about({"note": secret})
    for before in range(340, 352):
        assert "4111" not in told("x" * before + secret, [claim])
    assert told(secret, [claim]) == "…"
    assert told("no bearer abc", [claim]) == "no bearer ***"
    # As often as it takes for the end of what is looked at to move to where it is seen.
    assert "4111" not in told(secret * 1000, [claim])
    assert len(told("x" * 10**6, [claim])) == 350


def test_a_text_is_one_line_that_a_database_can_store() -> None:
    assert told("a\0b \ud800\n  c", []) == "a\ufffdb ? c"
