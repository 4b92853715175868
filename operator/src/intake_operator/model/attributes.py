"""The columns of the user's own that a slot keeps beside its resource id and label: their names, values and size.

`intake.stock` has the same rules in SQL; a test compares them.
"""

import json
from collections.abc import Sequence
from typing import Final

from intake_operator.model import label as labels

MAX_BYTES: Final = 1024
"""Of the attributes of a slot as JSON text in UTF-8, as `octet_length` of the jsonb counts them."""

# A column of such a name could be taken for the field of a claim or a seat, as validator, ledger and claimers get it.
FIELDS: Final = frozenset({
    "attributes", "claim_id", "claimed_at", "label", "payload", "pool_id", "receipt", "request_id", "resource_id",
    "seats", "slot_no", "user_id", "validation",
})  # fmt: skip


def name_flaw(name: str) -> str:
    """What is wrong with the name of a column; empty if nothing is."""
    if name.lower() in FIELDS:
        return "has the name of a field of a claim"
    if sign := labels.invisible(name):
        return f"has a name whose {sign}, which cannot be seen"
    if name != name.strip(" "):
        return "has a name with a space at an end, which cannot be seen"
    return ""


def as_json(names: Sequence[str], values: Sequence[str]) -> str:
    """The attributes of a CSV line. Values are texts; an empty one is null, as an empty label is."""
    return json.dumps(dict(zip(names, (value or None for value in values), strict=True)), ensure_ascii=False)


def flaw(attributes: str) -> str:
    """What is wrong with the attributes of a row, given as JSON text, and how to correct it; empty if nothing is."""
    if len(attributes.encode()) > MAX_BYTES:
        return (
            f"the columns beside resource_id and label have more than {MAX_BYTES} bytes as JSON, the most that a "
            "slot keeps; shorten them, or leave out columns that the sale does not need"
        )
    return ""
