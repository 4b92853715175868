"""The user's Secrets that the bridges of an event and the operator read, and whether each can be used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from intake_shared.certificates import certificate_flaw, key_flaw
from intake_shared.webhook_secrets import signing_secret_flaw, token_flaw

from intake_operator.model.observed import LedgerState, Manifest
from intake_operator.model.secrets import text
from intake_operator.model.spec import IntakeEventSpec, PostgresAccess, SecretRef
from intake_operator.reasons import Problem


@dataclass(frozen=True)
class Input:
    """One key of one Secret.

    `flaw` finds what its reader would refuse in its value, and gets the values of the keys `beside` it as well.
    """

    ref: SecretRef
    flaw: Callable[..., str] | None = None
    beside: tuple[str, ...] = ()


def of_spec(spec: IntakeEventSpec) -> list[Input]:
    """Every Secret that the spec names for the bridges, the ledger's first."""
    ledger = spec.commit_target.postgres
    return (of_postgres(ledger) if ledger else []) + of_webhooks(spec)


def of_webhooks(spec: IntakeEventSpec) -> list[Input]:
    """Every key that is needed to call the webhooks of the spec."""
    found: list[Input] = []
    for webhook in (spec.commit_target.webhook, spec.validation.webhook):
        if webhook is not None:
            refs = (
                (webhook.secret_ref, token_flaw),
                (webhook.signing_secret_ref, signing_secret_flaw),
                (webhook.ca_secret_ref, certificate_flaw),
            )
            found += [Input(ref, flaw) for ref, flaw in refs if ref is not None]
    return found


def of_postgres(wanted: PostgresAccess) -> list[Input]:
    """Every key that is needed to reach a PostgreSQL of the user, the URI first."""
    found = [Input(wanted.secret_ref)]
    if wanted.ca_secret_ref:
        found.append(Input(wanted.ca_secret_ref, certificate_flaw))
    if own := wanted.client_cert_secret_ref:
        found.append(Input(own.certificate, certificate_flaw))
        found.append(Input(own.key, key_flaw, beside=(own.certificate.key,)))
    return found


def check(needed: Input, secret: Manifest | None) -> LedgerState:
    """Whether this Secret can be used; the message never quotes its value."""
    name, key = needed.ref.name, needed.ref.key
    if secret is None:
        message = f"Secret {name} does not exist in this namespace. Create it with the key {key}."
        return LedgerState(Problem.LEDGER_SECRET_MISSING, message)
    if key not in (secret.get("data") or {}):
        message = f"Secret {name} has no key {key}. Add it, or name another key in the spec."
    elif not text(secret, key):
        message = f"Secret {name} has a blank value under the key {key}, or one that is not text in UTF-8. Correct it."
    elif needed.flaw and (found := needed.flaw(*(text(secret, each) for each in (key, *needed.beside)))):
        message = f"Secret {name} cannot be used under the key {key}: {found}. Correct the value."
    else:
        return LedgerState()
    return LedgerState(Problem.LEDGER_SECRET_KEY_MISSING, message)


def check_all(needed: list[Input], secrets: Mapping[str, Manifest | None]) -> LedgerState:
    """What is wrong first, of Secrets by name."""
    states = (check(each, secrets[each.ref.name]) for each in needed)
    return next((state for state in states if state.problem), LedgerState())
