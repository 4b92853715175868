"""The specification of an IntakeEvent. The CRD is the contract; this mirrors it, defaults included (tested)."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

from intake_operator.model import parameters
from intake_operator.model.pod_settings import PodSettings


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class SecretRef(_Model):
    """A key of a Secret in the event's own namespace."""

    name: str
    key: str


class UriSecretRef(SecretRef):
    """As CloudNativePG's application Secrets have it: the connection URI is under `uri`."""

    key: str = "uri"


class CaSecretRef(SecretRef):
    """As cert-manager has it: the authority's certificate is under `ca.crt`."""

    key: str = "ca.crt"


class CertificateSecretRef(_Model):
    """A Secret of type kubernetes.io/tls: a certificate and its private key."""

    name: str

    @property
    def certificate(self) -> SecretRef:
        """The certificate."""
        return SecretRef(name=self.name, key="tls.crt")

    @property
    def key(self) -> SecretRef:
        """The private key."""
        return SecretRef(name=self.name, key="tls.key")


class PostgresAccess(_Model):
    """How a PostgreSQL of the user is reached. Without certificates its URI says all."""

    secret_ref: UriSecretRef
    ca_secret_ref: CaSecretRef | None = None
    client_cert_secret_ref: CertificateSecretRef | None = None


class Window(_Model):
    """When claims are accepted: opens_at <= t < closes_at, judged by DB1's clock."""

    opens_at: AwareDatetime
    closes_at: AwareDatetime


class ValidationWebhook(_Model):
    """Where a claim is approved or declined."""

    url: str
    timeout_seconds: int = 5
    batch: bool = False
    secret_ref: SecretRef | None = None
    signing_secret_ref: SecretRef | None = None
    ca_secret_ref: CaSecretRef | None = None


class Validation(_Model):
    """How claims are validated before they are committed."""

    webhook: ValidationWebhook | None = None


class PostgresTarget(PostgresAccess):
    """A ledger that is a Postgres function."""

    function: str = "finalize_transaction"


class WebhookTarget(_Model):
    """A ledger behind an HTTP endpoint."""

    url: str
    timeout_seconds: int = 10
    secret_ref: SecretRef | None = None
    signing_secret_ref: SecretRef | None = None
    ca_secret_ref: CaSecretRef | None = None


class CommitTarget(_Model):
    """The ledger: exactly one of the two, the rate it can stand (commits a second, all bridges), how slow it may be."""

    postgres: PostgresTarget | None = None
    webhook: WebhookTarget | None = None
    max_per_second: int | None = None
    latency_budget_milliseconds: int = 1000


class ConfigMapRef(_Model):
    """A key of a ConfigMap in the event's own namespace; its value is CSV."""

    name: str
    key: str = "seats.csv"


class InventoryTable(PostgresAccess):
    """A table or view of the user's, in any Postgres."""

    name: str = "seats"


class Inventory(_Model):
    """Where the user's own resource ids and labels come from: exactly one of the two."""

    config_map_ref: ConfigMapRef | None = None
    table: InventoryTable | None = None


class Claims(_Model):
    """What a claim may bring along."""

    max_payload_bytes: int = 4096


class Checkout(_Model):
    """A claim is a hold until it is confirmed: how long it waits, and by how much that may be extended once."""

    hold_seconds: int
    extend_seconds: int | None = None

    @property
    def longest(self) -> timedelta:
        """How long a hold can last."""
        return timedelta(seconds=self.hold_seconds + (self.extend_seconds or 0))


class Bridge(PodSettings):
    """How many bridges, where they run, and how large each may be."""

    min_replicas: int = 1
    max_replicas: int = 4
    backlog_per_replica: int = 2000


class Storage(_Model):
    """A volume for DB1 that survives its pod."""

    size: str | int = "2Gi"
    storage_class_name: str | None = None


class Database(PodSettings):
    """DB1 itself. Storage is a volume unless `ephemeral` is given."""

    image: str = "postgres:18"
    storage: Storage | None = None
    ephemeral: dict[str, Any] | None = None
    allowed_namespaces: tuple[str, ...] | None = None
    parameters: Annotated[dict[str, str], Field(default_factory=dict)]

    @field_validator("parameters")
    @classmethod
    def _only_what_tunes(cls, given: dict[str, str]) -> dict[str, str]:
        if wrong := list(parameters.problems(given)):
            raise ValueError("; ".join(wrong))
        return given

    @property
    def volume(self) -> Storage | None:
        """The volume to ask for; None when DB1 lives and dies with its pod."""
        return None if self.ephemeral is not None else self.storage or Storage()


class Provisioning(_Model):
    """When DB1 is made: `lead_time_minutes` before the window opens, or at once if that is past."""

    lead_time_minutes: int = 60


class Teardown(_Model):
    """How DB1 goes away.

    A drain that takes longer than `drain_timeout_seconds` is shown as Degraded; it never gives up. DB1 stays for
    `keep_minutes` after the window has closed, sealed; a deletion of the event ends that.
    """

    drain_timeout_seconds: int = 3600
    keep_minutes: int = 10


class IntakeEventSpec(_Model):
    """What the user wrote."""

    pool: str
    inventory_size: int
    batch_size: int = 100
    window: Window
    visibility_timeout_seconds: int = 45
    max_retries: int = 10
    paused: bool = False
    claims_per_user: int | None = None
    claim_timeout_seconds: int | None = None
    claims: Claims = Claims()
    checkout: Checkout | None = None
    validation: Validation = Validation()
    commit_target: CommitTarget
    inventory: Inventory | None = None
    bridge: Bridge = Bridge()
    database: Database = Field(default_factory=lambda: Database(parameters={}))
    provisioning: Provisioning = Provisioning()
    teardown: Teardown = Teardown()

    def engine_config(self) -> dict[str, Any]:
        """The live configuration, as `intake.configure` takes it: the CR's own names, secrets left out."""
        config: dict[str, Any] = {
            "inventorySize": self.inventory_size,
            "batchSize": self.batch_size,
            "opensAt": _rfc3339(self.window.opens_at),
            "closesAt": _rfc3339(self.window.closes_at),
            "visibilityTimeoutSeconds": self.visibility_timeout_seconds,
            "maxRetries": self.max_retries,
            "paused": self.paused,
            "maxPayloadBytes": self.claims.max_payload_bytes,
            "latencyBudgetMilliseconds": self.commit_target.latency_budget_milliseconds,
        }
        optional = {
            "claimsPerUser": self.claims_per_user,
            "claimTimeoutSeconds": self.claim_timeout_seconds,
            "maxPerSecond": self.commit_target.max_per_second,
            "holdSeconds": self.checkout and self.checkout.hold_seconds,
            "extendSeconds": self.checkout and self.checkout.extend_seconds,
        }
        config |= {name: value for name, value in optional.items() if value is not None}
        if self.inventory is not None:
            config["ownResources"] = True
        if webhook := self.validation.webhook:
            config["validation"] = _without_secrets(webhook)
        if self.commit_target.postgres:
            config["commitTarget"] = {"postgres": {"function": self.commit_target.postgres.function}}
        elif self.commit_target.webhook:
            config["commitTarget"] = {"webhook": _without_secrets(self.commit_target.webhook)}
        return config


def _without_secrets(webhook: ValidationWebhook | WebhookTarget) -> dict[str, Any]:
    return webhook.model_dump(by_alias=True, exclude={"secret_ref", "signing_secret_ref", "ca_secret_ref"})


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat()
