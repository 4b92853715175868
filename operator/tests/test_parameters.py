"""database.parameters: a list with bounds, the same in model and CRD, each entry tried on a real Postgres."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
import yaml
from intake_operator.children.database import FIXED, settings
from intake_operator.model import parameters
from intake_operator.model.spec import Database
from psycopg import sql
from pydantic import ValidationError

from tests.postgres import PostgresServer

CRD = Path(__file__).resolve().parents[2] / "crds" / "intakeevents.yaml"
BOUNDED = {**parameters.NUMBERS, **parameters.SIZES, **parameters.TIMES}
# Both ends of what each name takes, or each of its words.
ENDS: dict[str, tuple[str, ...]] = {**BOUNDED, **parameters.WORDS}

type Bounds = Mapping[str, tuple[str, str]]

# What the rest of a category's names cannot do either: https://www.postgresql.org/docs/18/view-pg-settings.html
CATEGORIES = {
    "Autovacuum",
    "Connections and Authentication / Connection Settings",
    "Query Tuning / Other Planner Options",
    "Query Tuning / Planner Cost Constants",
    "Reporting and Logging / What to Log",
    "Resource Usage / Background Writer",
    "Resource Usage / I/O",
    "Resource Usage / Memory",
    "Resource Usage / Worker Processes",
    "Statistics / Cumulative Query and Index Statistics",
    "Vacuuming / Automatic Vacuuming",
    "Write-Ahead Log / Checkpoints",
    "Write-Ahead Log / Settings",
}
# No name of these kinds, whatever Postgres' next version calls its category.
NEVER = re.compile(
    r"timeout|sync|fsync|full_page|wal_level|standby|archive|restore|recovery|replica|preload|librar|statement|"
    r"isolation|read_only|deferrable|datestyle|intervalstyle|timezone|encoding|^lc_|search_path|_file|directory|socket|"
    r"port$|listen|ssl|password|krb|auth|log_min|log_error|log_param|log_duration|log_line|debug|zero_damaged|ignore_|"
    r"row_security|reserved|prepared|enable_|track_counts|track_activities|^autovacuum$|freeze|allow_|role"
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(settings(Database(parameters={}))) as running:
        yield running


@pytest.fixture(scope="module")
def catalog(server: PostgresServer) -> dict[str, tuple[str, str]]:
    """Each setting that Postgres has: context and category."""
    with psycopg.connect(server.uri()) as connection:
        rows = connection.execute("SELECT name, context, category FROM pg_settings").fetchall()
    return {name: (context, category) for name, context, category in rows}


def refusal(given: Mapping[str, str]) -> str:
    """What the model says to some parameters; nothing if it takes them."""
    try:
        Database(parameters=dict(given))
    except ValidationError as error:
        return str(error)
    return ""


def test_each_name_is_postgres_s_and_of_a_harmless_kind(catalog: dict[str, tuple[str, str]]) -> None:
    for name in parameters.ALLOWED:
        context, category = catalog[name]
        assert context != "internal", name
        assert category in CATEGORIES, name
        assert name == "checkpoint_timeout" or not NEVER.search(name), name


def test_each_other_setting_of_postgres_is_refused(catalog: dict[str, tuple[str, str]]) -> None:
    others = catalog.keys() - parameters.ALLOWED
    assert len(others) > 300
    for name in others:
        assert f"{name} cannot be set" in refusal({name: "1"})


@pytest.mark.parametrize("name", sorted(ENDS))
def test_postgres_takes_each_value_that_we_do(server: PostgresServer, name: str) -> None:
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        for value in ENDS[name]:
            assert refusal({name: value}) == ""
            # Checked as for a start, and taken back before there is one.
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))


def test_a_server_starts_with_the_minimum_of_every_parameter() -> None:
    least = {name: values[0] for name, values in ENDS.items()}
    with PostgresServer(settings(Database(parameters=least))) as server, psycopg.connect(server.uri()) as connection:
        for name, value in least.items():
            row = connection.execute(
                "SELECT current_setting(%s), source FROM pg_settings WHERE name = %s", (name, name)
            ).fetchone()
            assert row is not None
            assert row[1] == "configuration file", (name, value, row)


@pytest.mark.parametrize("case", ["WORK_MEM", "work mem", "app.name", "auto_explain.log_min_duration", ""])
def test_a_name_is_written_as_in_the_list(case: str) -> None:
    assert "cannot be set" in refusal({case: "4MB"})


@pytest.mark.parametrize(
    "given",
    [
        {"max_connections": "49"},
        {"max_connections": "5001"},
        {"max_connections": "300\n"},
        {"max_connections": "-1"},
        {"max_connections": "0x12c"},
        {"max_connections": "1e3"},
        {"commit_delay": "100000"},
        {"shared_buffers": "32768"},
        {"shared_buffers": "1MB"},
        {"shared_buffers": "256mb"},
        {"max_wal_size": "1TB"},
        {"checkpoint_timeout": "1d"},
        {"checkpoint_timeout": "300"},
        {"autovacuum_vacuum_cost_delay": "100ms"},
        {"huge_pages": "on"},
        {"io_method": "io_uring"},
        {"jit": "ON"},
        {"log_checkpoints": "true"},
    ],
)
def test_a_value_is_within_its_bounds_and_written_with_its_unit(given: dict[str, str]) -> None:
    ((name, value),) = given.items()
    told = refusal(given)
    assert f"{name} must be" in told
    assert repr(value) in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("synchronous_standby_names", "*"),
        ("statement_timeout", "1"),
        ("max_prepared_transactions", "10"),
        ("DateStyle", "German, DMY"),
        ("archive_command", "true"),
        ("session_preload_libraries", "x"),
        ("zero_damaged_pages", "on"),
    ],
)
def test_a_parameter_that_stopped_claims_or_reads_is_refused_with_the_reason(name: str, value: str) -> None:
    told = refusal({name: value})
    assert name in told
    assert "whether claims are kept, answered and kept private" in told


def test_an_event_cannot_override_the_operator_s_parameters() -> None:
    assert not FIXED.keys() & parameters.ALLOWED
    given = settings(Database(parameters={"max_connections": "500"}))
    assert given["max_connections"] == "500"
    unchecked = Database.model_construct(parameters={"log_min_error_statement": "error"})
    assert settings(unchecked).items() >= FIXED.items(), "nor by another way"


# --- the CRD ---


def rules() -> dict[str, str]:
    """The CRD's rules on the parameters, message to rule, blanks as one."""
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = spec["properties"]["database"]["properties"]["parameters"]["x-kubernetes-validations"]
    return {" ".join(each["message"].split()): " ".join(each["rule"].split()) for each in found}


def names_rule() -> tuple[str, str]:
    """Message and rule of the list."""
    listed = ", ".join(f"'{name}'" for name in sorted(parameters.ALLOWED))
    return (
        "database.parameters takes only what tunes DB1 for its load, as listed in docs/api.md; the rest decides "
        "whether claims are kept, answered and kept private",
        f"self.all(name, name in [{listed}])",
    )


def bounds_rule(what: str, bounds: Bounds, form: str, units: Mapping[str, int]) -> tuple[str, str]:
    """Message and rule of one kind of values."""
    told = ", ".join(f"{name} {least} to {most}" for name, (least, most) in sorted(bounds.items()))
    table = ", ".join(f"'{name}': [{cel(a, units)}, {cel(b, units)}]" for name, (a, b) in sorted(bounds.items()))
    factors = ", ".join(f"'{unit}': {factor}" for unit, factor in units.items())
    in_units = f"int(self[name].find('^[0-9]+')) * {{{factors}}}[self[name].find('[a-zA-Z]+$')]"
    amount = in_units if units else "double(self[name])"
    escaped = form.replace("\\", "\\\\")
    return (
        f"database.parameters has {what} beyond its bounds: {told}",
        f"[{{{table}}}].all(bounds, self.all(name, !(name in bounds) || (self[name].matches('{escaped}') && "
        f"[{amount}].all(amount, bounds[name][0] <= amount && amount <= bounds[name][1]))))",
    )


def words_rule() -> tuple[str, str]:
    """Message and rule of the words."""
    table = ", ".join(f"'{n}': [{', '.join(repr(w) for w in words)}]" for n, words in sorted(parameters.WORDS.items()))
    told = ", ".join(f"{name} ({', '.join(words)})" for name, words in sorted(parameters.WORDS.items()))
    return (
        f"database.parameters has a word that is not one of these: {told}",
        f"[{{{table}}}].all(words, self.all(name, !(name in words) || self[name] in words[name]))",
    )


def cel(value: str, units: Mapping[str, int]) -> str:
    """A bound as CEL writes it, in the unit of the rule."""
    amount = parameters.amount_of(value, units)
    return str(int(amount)) if units else str(amount)


def wanted() -> list[tuple[str, str]]:
    """The CRD's rules as they follow from the model."""
    p = parameters
    return [
        names_rule(),
        bounds_rule("a number", p.NUMBERS, p.NUMBER, {}),
        bounds_rule(
            "a size without kB, MB, GB or TB, or one", parameters.SIZES, parameters.SIZE, parameters.SIZE_UNITS
        ),
        bounds_rule(
            "a time without ms, s, min, h or d, or one", parameters.TIMES, parameters.TIME, parameters.TIME_UNITS
        ),
        words_rule(),
    ]


def test_the_crd_has_the_same_list_and_the_same_bounds() -> None:
    assert rules() == dict(wanted())


def test_the_api_page_names_each_parameter_with_its_bounds() -> None:
    page = (CRD.parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    for name, (least, most) in BOUNDED.items():
        assert f"| `{name}` | {least} to {most} |" in page
    for name, words in parameters.WORDS.items():
        assert f"| `{name}` | {', '.join(f'`{word}`' for word in words)} |" in page
