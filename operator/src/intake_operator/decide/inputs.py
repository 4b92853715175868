"""The user's Secrets that the bridges of an event read, and whether each can be used."""

from dataclasses import dataclass

from intake_shared.webhook_secrets import signing_secret_flaw, token_flaw

from intake_operator.model.observed import LedgerState, Manifest
from intake_operator.model.secrets import Flaw, text
from intake_operator.model.spec import IntakeEventSpec, SecretRef
from intake_operator.reasons import Problem


@dataclass(frozen=True)
class Input:
    """One key of one Secret. `flaw` finds what a bridge would refuse in its value; None: nothing is checked."""

    ref: SecretRef
    flaw: Flaw | None = None


def of_spec(spec: IntakeEventSpec) -> list[Input]:
    """Every Secret that the spec names for the bridges, the ledger's first."""
    ledger = spec.commit_target.postgres
    found = [Input(ledger.secret_ref)] if ledger else []
    for webhook in (spec.commit_target.webhook, spec.validation.webhook):
        if webhook is not None:
            refs = (
                (webhook.secret_ref, token_flaw),
                (webhook.signing_secret_ref, signing_secret_flaw),
                (webhook.ca_secret_ref, None),
            )
            found += [Input(ref, flaw) for ref, flaw in refs if ref is not None]
    return found


def check(needed: Input, secret: Manifest | None) -> LedgerState:
    """Whether a bridge can use this Secret; the message never quotes its value."""
    name, key = needed.ref.name, needed.ref.key
    if secret is None:
        message = f"Secret {name} does not exist in this namespace. Create it with the key {key}."
        return LedgerState(Problem.LEDGER_SECRET_MISSING, message)
    if key not in (secret.get("data") or {}):
        message = f"Secret {name} has no key {key}. Add it, or name another key in the spec."
    elif not text(secret, key):
        message = f"Secret {name} has a blank value under the key {key}, or one that is not text in UTF-8. Correct it."
    elif needed.flaw and (found := needed.flaw(text(secret, key))):
        message = f"Secret {name} cannot be used under the key {key}: {found}. Correct the value."
    else:
        return LedgerState()
    return LedgerState(Problem.LEDGER_SECRET_KEY_MISSING, message)
