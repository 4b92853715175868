"""A goal of a benchmark, and whether it was reached. Pure."""

from dataclasses import dataclass

from bench.common.figures import Spread


@dataclass(frozen=True)
class Verdict:
    """One goal and what was measured."""

    goal: str
    wanted: str
    found: Spread | None
    """None: not measured in this run."""
    bound: float
    at_least: bool = True
    aim: float | None = None

    @property
    def words(self) -> str:
        """Met or missed, and by how much."""
        if self.found is None:
            return "not measured"
        # As far beyond the bound as the verdict says: 10 % over an upper bound is a miss by 10 %.
        beyond = self.found.middle / self.bound - 1
        good = beyond if self.at_least else -beyond
        if good < 0:
            return f"**missed by {-good:.0%}**"
        if self.aim is not None and (self.found.middle >= self.aim) == self.at_least:
            return "met, and the aim"
        return "met"
