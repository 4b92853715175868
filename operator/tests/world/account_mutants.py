"""Broken operators of the account: what a claim's payload must not reach, and what of a claim must agree."""

from typing import Final

ACCOUNT: Final = {
    "payloads in the log": (
        "admin.service",
        'f"showed the payloads of {len(found)} dead letters")',
        'f"showed the payloads of {[each.shown() for each in found.values()]}")',
        "test_a_payload_is_shown_to_those_with_the_right_alone_and_the_audit_says_to_whom",
        "test_admin_api.py",
    ),
    "payloads shown to those who may replay": (
        "admin.server",
        'authorized("create", PAYLOADS, payloads)',
        'authorized("update", DEAD_LETTERS, payloads)',
        "test_a_payload_is_shown_to_those_with_the_right_alone_and_the_audit_says_to_whom",
        "test_admin_api.py",
    ),
    "a payload in a ledger's words": (
        "ledger.voiding",
        "    if contents and (quotes or any(value in text for value in values)):\n",
        "    if contents and quotes:\n",
        "test_what_a_ledger_says_of_a_payload_is_not_told",
        "test_admin_api.py",
    ),
    "a claim voided without what came with it": (
        "admin.service",
        "yield replace(letter, payload=content.payload, validation=content.validation)",
        "yield letter",
        "test_a_discarded_claim_is_voided_whole_with_what_came_with_it_which_nobody_sees",
        "test_admin_api.py",
    ),
    "a seat that the ledger lacks": (
        "decide.compare",
        "    if Counter(sale.slot_nos) != Counter(claim.slot_nos):\n",
        "    if not set(sale.slot_nos) <= set(claim.slot_nos):\n",
        "test_a_violation_names_the_claim_and_its_slots",
        "test_compare.py",
    ),
    "a hold that is left is no claim": (
        "model.proof",
        "        if account.held or account.queued or account.dead_letters:\n",
        "        if account.queued or account.dead_letters:\n",
        "test_every_claim_has_ended_and_a_hold_that_expired_is_an_end",
        "test_proof.py",
    ),
}
