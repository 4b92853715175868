"""What the operator may do in a DB1 that has the SQL of another version.

docs/decisions/0003-an-event-keeps-its-version.md says why, docs/upgrading.md what people see of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from intake_operator import names
from intake_operator.decide import memory
from intake_operator.decide.stage import was_claimable
from intake_operator.model.observed import Event, Observed
from intake_operator.model.sql_version import SqlVersion

# Of a message.
_MOST_NAMED: Final = 5


def to_install(event: Event, observed: Observed) -> bool:
    """Whether DB1 can do nothing before SQL is run: it has none, or it was never whole."""
    version = observed.database.version
    if version is None:
        return not observed.database.migrated
    if not version.lacks or version.changed:
        return False
    return event.says(names.UPGRADE_ANNOTATION) or not was_claimable(event, observed)


def to_append(event: Event, observed: Observed) -> bool:
    """Whether a person asks for SQL that this operator has beyond what ran. What has changed since is never run."""
    version = observed.database.version
    if version is None or version.is_own or version.changed:
        return False
    return event.says(names.UPGRADE_ANNOTATION)


def unsupported(event: Event, observed: Observed) -> str:
    """Why the operator cannot do anything in DB1; empty where it can."""
    version = observed.database.version
    if version is None or to_install(event, observed):
        return ""
    if version.lacks:
        return f"DB1 has SQL version {version.name}, without {_named(version.lacks)}, which this operator calls"
    if version.bridges_lack and not memory.bridge_image(event, observed):
        return f"DB1 has SQL version {version.name}, without {_named(version.bridges_lack)}, which its bridges call"
    return ""


def note(event: Event, observed: Observed) -> str:
    """What is to be known of a DB1 of another version; empty for one of the operator's own."""
    version = observed.database.version
    if version is None or version.is_own:
        return ""
    said = f"it keeps SQL version {version.name}, with which it was made; this operator has {version.own}"
    asked = event.says(names.UPGRADE_ANNOTATION)
    if asked and version.changed:
        said += f"; {names.UPGRADE_ANNOTATION} cannot give it that, because what ran has changed since: "
        said += _named(version.changed)
    if asked and version.bridges_lack:
        said += f"; its bridges keep their image, because DB1 does not have {_named(version.bridges_lack)}"
    if unknown := sorted(_unknown_settings(event, version)):
        said += f"; these settings have no effect in it: {_named(unknown)}"
    return said


def known_settings(config: Mapping[str, Any], version: SqlVersion | None) -> Mapping[str, Any]:
    """The configuration without what a DB1 of another version does not know."""
    if version is None or version.settings is None:
        return config
    return {name: value for name, value in config.items() if name in version.settings}


def _unknown_settings(event: Event, version: SqlVersion) -> set[str]:
    if event.spec is None or version.settings is None:
        return set()
    return set(event.spec.engine_config()) - version.settings


def _named(found: Sequence[str]) -> str:
    more = len(found) - _MOST_NAMED
    return ", ".join(found[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
