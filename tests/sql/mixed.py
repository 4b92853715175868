"""A sale with claims of one to four slots in every state that a claim can have."""

from uuid import UUID

from psycopg.types.json import Jsonb

from tests.sql.intake import POOL, Answer, Intake

FATES = ("queued", "committed", "voided", "dead", "discarded", "releasing", "released", "held", "expired")
RECEIPT = {"order_no": 7}
PAYMENT = {"payment": "p-1"}
SLOTS = {"size": 40, "available": 24, "held": 4, "withheld": 3, "reserved": 7, "consumed": 2}
CLAIMS = {"claims": 9, "committed": 1, "voided": 2, "released": 1, "expired": 1, "held": 1}


def mixed(intake: Intake, **settings: object) -> dict[str, list[Answer]]:
    """Forty slots, three of them withheld, and a claim for each fate, by its user."""
    validation = {"url": "http://validator", "timeoutSeconds": 5, "batch": False}
    intake.configure(40, holdSeconds=600, visibilityTimeoutSeconds=3600, validation=validation, **settings)
    if settings.get("ownResources"):
        intake.stock(1, [(UUID(int=n), f"seat {n}") for n in range(1, 41)])
    intake.seed()
    intake.rows("SELECT * FROM intake.withhold_slots(%s, %s, 'ops', 'house')", POOL, [2, 3, 39])
    answers = {fate: intake.claim_several(fate, 1 + n % 4, "r", {"by": fate}) for n, fate in enumerate(FATES)}
    claims = {fate: told[0].claim_id for fate, told in answers.items()}
    intake.connection.execute("UPDATE intake.holds SET expires_at = now() WHERE claim_id = %s", (claims["expired"],))
    intake.housekeep()
    assert intake.release(claims["released"]) == "released"
    for fate in FATES[:6]:
        assert intake.confirm(claims[fate], fate) == "confirmed"
    messages = {message["user_id"]: message for message in intake.read()}
    approved = [messages[fate] for fate in ("committed", "voided", "dead")]
    intake.change("mark_validated", approved, [Jsonb(PAYMENT), None, Jsonb(PAYMENT)])
    intake.change("acknowledge", approved[:2], ["committed", "voided"], [Jsonb(RECEIPT), None])
    intake.change("dead_letter", [messages["dead"], messages["discarded"]], ["why", "why"])
    (letter,) = intake.column("SELECT msg_id FROM intake.dead_letters(%s) WHERE user_id = 'discarded'", POOL)
    intake.rows("SELECT intake.discard(%s, %s, 'ops', 'the ledger voided it')", POOL, [letter])
    assert intake.release(claims["releasing"]) == "releasing"
    assert intake.reconcile() == []
    return answers
