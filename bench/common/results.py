"""The results of a whole run: a JSON file, from which the page and the plots are made. Pure but for the file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from bench.common.figures import Measurement, Sample

# Every full run is kept here, and its page is written there.
RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Rebuild:
    """One kill -9 of a server with an open pool, and the times until it sells again."""

    slots: int
    claimed: int
    """Slots that were claimed before."""
    seed_seconds: float
    """The fresh seed of the same pool."""
    recovery_seconds: float
    """From the start of the server until it answers."""
    rebuild_seconds: float
    """The seed() after the recovery."""


@dataclass(frozen=True)
class Trace:
    """Answers a second until the pool is sold out and after it, one figure for each step of time."""

    variant: str
    slots: int
    clients: int
    step_seconds: float
    rates: list[float]


@dataclass
class Results:
    """All results of one run."""

    date: str
    quick: bool
    machine: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    rebuilds: list[Rebuild] = field(default_factory=list)

    def find(self, part: str, variant: str, clients: int, slots: int | None = None) -> Measurement | None:
        """One measurement, or None if it was not made."""
        for each in self.measurements:
            if (each.part, each.variant, each.clients) == (part, variant, clients) and slots in (None, each.slots):
                return each if each.samples else None
        return None

    def write(self, path: Path) -> None:
        """Write them to a file."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read them from a file."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["measurements"] = [
            Measurement(**{**each, "samples": [Sample(**sample) for sample in each["samples"]]})
            for each in raw["measurements"]
        ]
        raw["traces"] = [Trace(**each) for each in raw["traces"]]
        raw["rebuilds"] = [Rebuild(**each) for each in raw["rebuilds"]]
        return cls(**raw)
