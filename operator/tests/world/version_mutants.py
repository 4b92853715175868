"""Broken operators that do not leave a running sale of another version as it is."""

from typing import Final

VERSIONS, DATABASES = "test_versions.py", "test_databases.py"

VERSION: Final = {
    "bridges replaced while the window is open": (
        "decide.kept",
        "    return under_way(facts) and not event.says(names.UPGRADE_ANNOTATION)",
        "    return False",
        "test_keep_their_template_in_a_rush",
        VERSIONS,
    ),
    "bridges replaced while the queue drains": (
        "decide.kept",
        "    if facts.stage is Stage.DRAIN:\n        return True",
        "    if facts.stage is Stage.DRAIN:\n        return False",
        "test_keep_their_template_in_a_rush",
        VERSIONS,
    ),
    "image that ran forgotten while no bridge is ready": (
        "decide.memory",
        '    return str(known.get("bridgeImage", ""))',
        '    return ""',
        "test_keep_an_image_that_ran_while_none_is_ready",
        VERSIONS,
    ),
    "template of DB1 follows the operator in a sale": (
        "decide.desired",
        "templates.kept(made, existing) if kept.under_way(facts) else made",
        "made",
        "test_keeps_its_template_in_a_rush",
        VERSIONS,
    ),
    "newer file planned for a running DB1": (
        "decide.versions",
        "        return False\n    return event.says(names.UPGRADE_ANNOTATION)\n",
        "        return False\n    return True\n",
        "test_of_a_newer_version_waits",
        VERSIONS,
    ),
    "changed file planned for a running DB1": (
        "decide.versions",
        "    if version is None or version.is_own or version.changed:",
        "    if version is None or version.is_own:",
        "test_that_has_changed_is_never_run_and_the_event_says_why",
        VERSIONS,
    ),
    "newer file run beside a changed one": (
        "database.migrate",
        "            if changed := _changed(ran, migrations):",
        "            if False and (changed := _changed(ran, migrations)):",
        "test_a_newer_file_is_not_run_where_another_has_changed",
        DATABASES,
    ),
    "DB1 that lacks what is called is configured": (
        "decide.versions",
        "    if version.lacks:\n",
        "    if False:\n",
        "test_that_lacks_what_the_operator_calls_is_left_alone",
        VERSIONS,
    ),
    "memory of a later version dropped": (
        "decide.memory",
        '{**(known or {}), "systemIdentifier": claimable}',
        '{"systemIdentifier": claimable}',
        "test_that_the_status_remembers_are_kept",
        VERSIONS,
    ),
}
