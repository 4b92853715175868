"""Broken operators of events that wait: what runs too early, what stays, what is asked and told."""

from typing import Final

WAITING: Final = {
    "DB1 made before its time": (
        "decide.stage",
        "    return now + lead_time(spec) < spec.window.opens_at",
        "    return False",
        "test_db1_is_not_made_before_its_time",
        "test_waiting.py",
    ),
    "waiting event that is deleted keeps its children": (
        "decide.stage",
        "    if not over:\n",
        "    if not over or (event.spec and _is_early(event.spec, now) and not begun(event, observed)):\n",
        "test_an_event_that_is_deleted_while_it_waits_leaves_nothing",
        "test_waiting.py",
    ),
    "window that moves away leaves DB1 alone": (
        "decide.stage",
        " and not begun(event, observed) else Stage.SERVE",
        " else Stage.SERVE",
        "test_i11_a_window_that_moves_away_takes_no_db1_away",
        "test_waiting.py",
    ),
    "late start told as on time": (
        "decide.provisioning",
        "    if began - due <= PUNCTUAL:",
        "    if True:",
        "test_an_operator_that_was_down_catches_up_and_says_how_late_it_is",
        "test_waiting.py",
    ),
    "hung check blocks the others": (
        "preflight.preflights",
        "        async with bounded(question.seconds):\n            return await question.ask()",
        "        async with bounded(3600):\n            return await question.ask()",
        "test_a_check_that_hangs_holds_up_no_other",
        "test_preflights.py",
    ),
    "namespace whose checks hang has every turn": (
        "preflight.preflights",
        "        async with self._places.one(event.namespace):",
        "        async with self._places.one(event.uid):",
        "test_namespaces_whose_checks_hang_leave_others_their_turn",
        "test_preflights.py",
    ),
    "problem forgotten by a restart": (
        "decide.preflight",
        '    elif (before := _told(event)) is not None and before["status"] == "False":',
        "    elif (before := _told(event)) is not None and False:",
        "test_an_edit_or_a_restart_leaves_the_last_answer_until_the_next",
        "test_preflight.py",
    ),
    "answer of another generation told as of this one": (
        "decide.conditions",
        '        "observedGeneration": condition.generation or facts.event.generation,',
        '        "observedGeneration": facts.event.generation,',
        "test_an_edit_or_a_restart_leaves_the_last_answer_until_the_next",
        "test_preflight.py",
    ),
}
