"""What the documents point at is there: links with their headings, and the tests that their commands name."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("bridge", "charts", "crds", "docs", "operator", "sql", "tests")
# bench/*/notes.md are left out: they become the ends of pages in docs/, which are looked at.
DOCUMENTS = sorted(
    chain(ROOT.glob("*.md"), [ROOT / "bench" / "README.md"], *((ROOT / folder).rglob("*.md") for folder in FOLDERS))
)
# All but the history, and what programs write.
PAGES = [page for page in DOCUMENTS if page.name not in {"CHANGELOG.md", "benchmarks.md", "benchmarks-bridge.md"}]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_a_sentence_a_line_of_at_most_120_columns(page: Path) -> None:
    for number, line in prose(page.read_text(encoding="utf-8")):
        assert len(re.sub(r"\]\([^)]*\)", "]", line)) <= 120, f"line {number} is too long"
        assert not re.search(r"[a-z)`][.!?] [A-Z]", re.sub(r"`[^`]*`", "``", line)), f"line {number}: two sentences"


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a page with their numbers, without code, tables and headings."""
    fenced = code = False
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.startswith("```")
        code = bool(line.startswith("    ") and (code or not before)) or (code and not line)
        if not (fenced or code or line.startswith(("```", "|", "#", "<"))):
            yield number, line
        before = line


def test_a_long_line_and_a_second_sentence_are_found() -> None:
    text = "One. Two.\n\n    code. More\n\n| cell. More |\n\n```\nx. Y\n```\nOne, see `a. B`.\n"
    assert [number for number, line in prose(text) if line] == [1, 10]


def anchors(document: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
