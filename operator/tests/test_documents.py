"""What the documents point at is there: links with their headings, and the tests that their commands name."""

import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("bridge", "charts", "crds", "docs", "operator", "sql", "tests")
# bench/*/notes.md are left out: they become the ends of pages in docs/, which are looked at.
DOCUMENTS = sorted(
    chain(ROOT.glob("*.md"), [ROOT / "bench" / "README.md"], *((ROOT / folder).rglob("*.md") for folder in FOLDERS))
)
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@EACH
def test_every_link_leads_somewhere(document: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "", document.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@EACH
def test_every_test_file_that_is_named_with_its_folder_exists(document: Path) -> None:
    for name in re.findall(r"(?:\w+/)+test_\w+\.py", document.read_text(encoding="utf-8")):
        assert (ROOT / name).exists() or (document.parent / name).exists(), name


def anchors(document: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
