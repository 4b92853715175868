"""What the operator says of a Secret's values is what the bridge does with them."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from intake_bridge.adapters.credentials import keys_of, token_of
from intake_bridge.ports import TargetDownError
from intake_operator.kube.client import Cluster
from intake_operator.model.observed import Event, LedgerState, Manifest, Observed
from intake_operator.model.secrets import key_flaw, text, token_flaw
from intake_operator.observe import Observer
from intake_operator.reasons import Problem

SIGNED = {"signingSecretRef": {"name": "shop", "key": "value"}, "url": "http://shop/commit"}
CALLED = {"secretRef": {"name": "shop", "key": "value"}, "url": "http://shop/commit"}
VALUES = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\r\t\ufeff\u200b\u00a0ab")))


@given(VALUES)
@example("\ufeffkey")
@example("old\n\ufeffnew\r\n")
@example("Bearer token")
def test_a_key_or_token_is_refused_by_both_or_by_neither(given: str) -> None:
    seen = text({"data": {"value": base64.b64encode(given.encode()).decode()}}, "value")
    for told, read in ((key_flaw(seen), keys_of), (token_flaw(seen), token_of)):
        refused = False
        try:
            read(given.strip())  # as Secrets.optional of the bridge hands it on
        except TargetDownError:
            refused = True
        assert bool(told) == refused, told


@pytest.mark.parametrize(
    ("webhook", "value", "told"),
    [
        (SIGNED, "\ufeffS3cret\n", "in line 1, character 1 is U+FEFF (BYTE ORDER MARK), which cannot be seen"),
        (
            SIGNED,
            "old\r\nS3\u200bcret\r\n",
            "in line 2, character 3 is U+200B (ZERO WIDTH SPACE), which cannot be seen",
        ),
        (CALLED, "\ufeffS3cret\n", "character 1 is U+FEFF (BYTE ORDER MARK), which cannot be seen"),
        (CALLED, "Bearer S3cret", "it has a space in it; a token is one word"),
        (SIGNED, "old S3cret\r\nnew S3cret\r\n", ""),
        (CALLED, "S3cret\r\n", ""),
    ],
)
async def test_what_the_bridge_will_refuse_is_told_before_the_sale(
    event: Callable[..., Event], spec: Callable[..., Any], webhook: dict[str, Any], value: str, told: str
) -> None:
    class Secrets(Cluster):
        def __init__(self) -> None:
            pass

        async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
            return {"metadata": {"uid": "1"}, "data": {"value": base64.b64encode(value.encode()).decode()}}

    selling = event(spec=spec(commitTarget={"webhook": webhook}))
    assert selling.spec is not None
    observer = Observer(Secrets(), None, None, None, None, None, None)  # type: ignore[arg-type]
    _, observed = await observer._inputs(selling, selling.spec, Observed())
    if not told:
        assert observed.ledger == LedgerState()
        return
    assert observed.ledger.problem is Problem.LEDGER_SECRET_KEY_MISSING
    assert observed.ledger.message.startswith(f"Secret shop cannot be used under the key value: {told}")
    assert "S3" not in observed.ledger.message
