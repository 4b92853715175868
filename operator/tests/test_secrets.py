"""The operator reports a Secret's value that the bridge will refuse; shared/tests has what is refused."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from intake_operator.kube.client import Cluster
from intake_operator.model.observed import Event, LedgerState, Manifest, Observed
from intake_operator.observe import Observer
from intake_operator.reasons import Problem

SIGNED = {"signingSecretRef": {"name": "shop", "key": "value"}, "url": "http://shop/commit"}
CALLED = {"secretRef": {"name": "shop", "key": "value"}, "url": "http://shop/commit"}
OLD, NEW = ("whsec_" + base64.b64encode(bytes([first] * 32)).decode() for first in (1, 2))


@pytest.mark.parametrize(
    ("webhook", "value", "told"),
    [
        (SIGNED, "\ufeffS3cret\n", "line 1 has an invisible character: character 1 is U+FEFF (BYTE ORDER MARK)"),
        (
            SIGNED,
            f"{OLD}\r\nS3\u200bcret\r\n",
            "line 2 has an invisible character: character 3 is U+200B (ZERO WIDTH SPACE)",
        ),
        (CALLED, "\ufeffS3cret\n", "it has an invisible character: character 1 is U+FEFF (BYTE ORDER MARK)"),
        (CALLED, "Bearer S3cret", "it has a space in it; a token is one word"),
        (SIGNED, "S3cret\n", "line 1 is no signing secret: expected whsec_ and then 24 to 64 bytes in base64"),
        (SIGNED, f"{OLD}\r\n{NEW}\r\n", ""),
        (CALLED, "S3cret\r\n", ""),
    ],
)
async def test_a_value_that_the_bridge_will_refuse_is_reported_before_the_sale(
    event: Callable[..., Event], spec: Callable[..., Any], webhook: dict[str, Any], value: str, told: str
) -> None:
    class Secrets(Cluster):
        def __init__(self) -> None:
            pass

        async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
            return {"metadata": {"uid": "1"}, "data": {"value": base64.b64encode(value.encode()).decode()}}

    selling = event(spec=spec(commitTarget={"webhook": webhook}))
    assert selling.spec is not None
    observer = Observer(Secrets(), None, None, None, None, None, None, None)  # type: ignore[arg-type]
    _, observed = await observer._inputs(selling, selling.spec, Observed())
    if not told:
        assert observed.ledger == LedgerState()
        return
    assert observed.ledger.problem is Problem.LEDGER_SECRET_KEY_MISSING
    assert observed.ledger.message.startswith(f"Secret shop cannot be used under the key value: {told}")
    assert "S3" not in observed.ledger.message
