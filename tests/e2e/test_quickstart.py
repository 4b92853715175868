"""docs/quickstart.md, command by command: a seat is bought, committed and proven."""

import re
from typing import Final

from tests.e2e.kube import REPOSITORY, Kube, run
from tests.patience import SLOWER

PAGE: Final = REPOSITORY / "docs" / "quickstart.md"
# Section 1 is what `make e2e` does before any test. The clean-up would take the cluster away.
FIRST: Final = "## 2. "
BEHIND: Final = "## Clean up"
# A minute until the sale opens, and what a healthy machine takes for the rest.
SECONDS: Final = 120.0


def test_the_quickstart_ends_with_a_seat_of_one_s_own_and_a_report(namespace: Kube) -> None:
    commands, shown = fences("sh"), fences("text")
    assert len(commands) == 9
    here = f'kubectl() {{ command kubectl --context "{namespace.context}" --namespace "{namespace.namespace}" "$@"; }}'
    script = "\n".join([f"cd '{REPOSITORY}'", here, *commands])
    printed = run("bash", "-euo", "pipefail", "-c", script, timeout=SLOWER * SECONDS)

    words = printed.split()
    assert [word for word in words if word in {"claimed", "taken", "committed"}] == [
        *["claimed"] * 2,
        "taken",
        *["committed"] * 4,
    ]
    assert '"claims":"1","committed":"1"' in printed
    assert '"verified":"true"' in printed
    lines = [line.split() for line in printed.splitlines()]
    for heads in (block.splitlines()[0].split() for block in shown if not block.startswith("{")):
        assert heads in lines, "a table of the page has other columns than this"


def fences(language: str) -> list[str]:
    """The blocks of one language in the sections that the test runs."""
    page = PAGE.read_text(encoding="utf-8")
    part = page[page.index(FIRST) : page.index(BEHIND)]
    return re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)
