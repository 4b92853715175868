"""What a mutant is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A broken variant of one SQL file."""

    file: str
    before: str
    after: str
    caught_by: str
    """The test function that must fail on it, in each of its parametrizations."""

    def patch(self, name: str, text: str) -> str:
        """The SQL to install instead of `text`."""
        if name != self.file:
            return text
        if text.count(self.before) != 1:
            raise ValueError(
                f"{name}: the mutant's text occurs {text.count(self.before)} times, not once: {self.before}"
            )
        return text.replace(self.before, self.after)
