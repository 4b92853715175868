"""docs/glossary.md is the law on words: what it retires stands nowhere, what it reserves names nothing else."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = Path("docs/glossary.md")
CRD = Path("crds/intakeevents.yaml")

# The history, and what programs have written.
LEFT_OUT = re.compile(r"CHANGELOG\.md|uv\.lock|docs/glossary\.md|bench/results/.*|.*\.(svg|sum)")

ENTRY = re.compile(r"^- `(?P<word>[^`]+)`(?: \(still in (?P<files>[^)]+)\))?: ", re.MULTILINE)


@dataclass(frozen=True)
class Retired:
    """A word that may stand nowhere, but in the files and folders that its entry names."""

    word: str
    prose: bool
    allowed: frozenset[str]

    def __str__(self) -> str:
        return self.word

    def found_in(self, file: str, text: str) -> bool:
        """Whether the word stands in this file, or is its path."""
        if "/" in self.word:
            return file.startswith(self.word) if self.word.endswith("/") else file == self.word
        if not self.prose and self.word not in text:
            return False  # quicker
        words = r"\s+".join(map(re.escape, self.word.split()))
        return bool(re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE if self.prose else 0))


def section(title: str) -> str:
    """The text under a heading of the glossary, without that of the headings below it."""
    text = (ROOT / GLOSSARY).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def retired() -> list[Retired]:
    """Both lists of retired words."""
    return [
        Retired(entry["word"], prose, frozenset(re.findall(r"`([^`]+)`", entry["files"] or "")))
        for title, prose in (("Identifiers", False), ("Words of prose", True))
        for entry in ENTRY.finditer(section(title))
    ]


def reserved() -> list[tuple[str, ...]]:
    """The reserved words, each as the parts of an identifier."""
    return [tuple(entry["word"].split("_")) for entry in ENTRY.finditer(section("Reserved words"))]


@cache
def tracked() -> dict[str, str]:
    """The text of every file under version control that is there and held to the glossary."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [file for file in listed.split("\0") if file and (ROOT / file).is_file() and not LEFT_OUT.fullmatch(file)]
    return {file: (ROOT / file).read_text(encoding="utf-8") for file in files}


@pytest.mark.parametrize("word", retired(), ids=str)
def test_a_retired_word_does_not_come_back(word: Retired) -> None:
    found = {file for file, text in tracked().items() if word.found_in(file, text)}
    back = {file for file in found if not file.startswith(tuple(word.allowed))}
    assert not back, f"docs/glossary.md retires {word}; it says what to write instead"
    unused = {place for place in word.allowed if not any(file.startswith(place) for file in found)}
    assert not unused, f"docs/glossary.md allows {word} where it is no longer"


def test_the_lists_are_read() -> None:
    assert len(retired()) > 20
    assert {("ticket",), ("turn",), ("access", "pass")} == set(reserved())


def test_an_identifier_is_found_as_a_whole_word_and_prose_in_any_letters() -> None:
    identifier, prose = Retired("oldName", False, frozenset()), Retired("old word", True, frozenset())
    assert identifier.found_in("a", "x = oldName + 1")
    assert not identifier.found_in("a", "anoldName, oldNames, oldname")
    assert prose.found_in("a", "An Old\n    word.")
    assert not prose.found_in("a", "old words")
    assert Retired("old/", False, frozenset()).found_in("old/file.py", "")


def test_a_reserved_word_is_found_in_every_kind_of_identifier() -> None:
    sql = "CREATE TABLE t.turns (); -- one turns it\nSELECT 'we turn it', format('ticket_%s', next_turn);"
    assert misused(sql_identifiers(sql)) == {"turns", "ticket_", "next_turn"}
    python = "class TurnTable:\n    def ticket(self, turn_id): self.ticketNo = accessPass = 1  # in turn\n"
    assert misused(python_identifiers(python)) == {"TurnTable", "ticket", "turn_id", "ticketNo", "accessPass"}
    assert misused(iter(["saturn", "returned", "passes", "turner"])) == set()


def test_no_reserved_word_names_something_of_today() -> None:
    found = {}
    for file, text in tracked().items():
        if file.endswith(".sql"):
            found[file] = misused(sql_identifiers(text))
        elif re.fullmatch(r"\w+/src/.*\.py", file):
            found[file] = misused(python_identifiers(text))
    found[str(CRD)] = misused(properties(yaml.safe_load(tracked()[str(CRD)])))
    assert {file: names for file, names in found.items() if names} == {}


def misused(names: Iterator[str]) -> set[str]:
    """Those of these identifiers that have a reserved word, or its plural, among their parts."""
    return {name for name in names if any(_has(_parts(name), word) for word in reserved())}


def sql_identifiers(text: str) -> Iterator[str]:
    """Names in the code of SQL, and what looks like one within its strings; keywords are in capitals."""
    code = re.sub(r"--.*|/\*.*?\*/", "", text)
    yield from re.findall(r"\b[a-z_][a-z0-9_]*", re.sub(r"'(?:[^']|'')*'", "''", code))
    for string in re.findall(r"'(?:[^']|'')*'", code):
        yield from re.findall(r"\b[a-z][a-z0-9]*_[a-z0-9_]*", string)


def python_identifiers(text: str) -> Iterator[str]:
    """Every name that a module gives to something."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case _:
                pass


def properties(schema: object) -> Iterator[str]:
    """The names of all fields below a schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {}) if isinstance(schema.get("properties"), dict) else ()
        for value in schema.values():
            yield from properties(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from properties(value)


def _parts(name: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _has(parts: list[str], word: tuple[str, ...]) -> bool:
    *first, last = word
    windows = [parts[at : at + len(word)] for at in range(len(parts) - len(word) + 1)]
    return any(window[:-1] == first and window[-1] in {last, f"{last}s"} for window in windows)
