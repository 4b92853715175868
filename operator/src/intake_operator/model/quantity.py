"""Quantities of Kubernetes: `250m`, `1Gi`, `2e3`."""

import re
from decimal import Decimal
from typing import Final

_FORM: Final = re.compile(r"([+-]?(?:[0-9]+[.]?[0-9]*|[.][0-9]+))(?:([eE][+-]?[0-9]+)|([numkMGTPE]?|[KMGTPE]i))")
_UNITS: Final = {
    "": Decimal(1),
    **{unit: Decimal(1000) ** (power - 3) for power, unit in enumerate("num")},
    **{unit: Decimal(1000) ** (power + 1) for power, unit in enumerate("kMGTPE")},
    **{f"{unit}i": Decimal(1024) ** (power + 1) for power, unit in enumerate("KMGTPE")},
}


def amount(quantity: str | int | float) -> Decimal:
    """The number that a quantity means. Raises ValueError for what is none."""
    found = _FORM.fullmatch(str(quantity).strip())
    if found is None:
        raise ValueError(f"{quantity!r} is not a quantity")
    number, exponent, unit = found.groups()
    return Decimal(number + (exponent or "")) * _UNITS[unit or ""]


def shown(resource: str, value: Decimal) -> str:
    """The same for people: memory and storage in Mi, CPU in thousandths, others as a number."""
    if resource.endswith(("memory", "storage")):
        return f"{value / 2**20:.0f}Mi"
    return f"{value * 1000:.0f}m" if resource.endswith("cpu") else f"{value:f}"
