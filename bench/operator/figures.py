"""What one run of the operator cost. Pure, but for the file of results."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Figures:
    """The cost of some seconds with so many events."""

    part: str
    """`waiting`, or `open`."""
    events: int
    seconds: float
    requests: dict[str, int]
    """By verb and kind."""
    cpu_seconds: float
    rss_mib: float
    """At the end."""
    most_mib: float
    """The most since the process began."""

    @property
    def each_a_minute(self) -> float:
        """Requests a minute for each event."""
        return sum(self.requests.values()) / self.seconds * 60 / self.events

    @property
    def cores(self) -> float:
        """How much of a core it used."""
        return self.cpu_seconds / self.seconds


@dataclass
class Results:
    """All figures of one run of the benchmark."""

    date: str
    machine: dict[str, str]
    kubernetes: str
    figures: list[Figures] = field(default_factory=list)

    def find(self, part: str, events: int) -> Figures | None:
        """The figures of one part; None if it was not measured."""
        return next((each for each in self.figures if (each.part, each.events) == (part, events)), None)

    def write(self, path: Path) -> None:
        """Write them to a file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read them from a file."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["figures"] = [Figures(**each) for each in raw["figures"]]
        return cls(**raw)
