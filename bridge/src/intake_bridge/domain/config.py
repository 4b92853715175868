"""The configuration of a pool, as `intake.configuration` returns it under the names of the CR."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

# As in the CRD. Checked again, because the name becomes part of a statement (through psycopg's Identifier).
FunctionName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


class Webhook(_Model):
    """A webhook that is called to validate or to commit."""

    url: str
    timeout_seconds: float = Field(default=5, gt=0)
    batch: bool = False


class CommitWebhook(_Model):
    """`commitTarget.webhook`."""

    url: str
    timeout_seconds: float = Field(default=10, gt=0)


class CommitPostgres(_Model):
    """`commitTarget.postgres`. The URI is a secret, and comes with INTAKE_LEDGER_URI."""

    function: FunctionName = "finalize_transaction"


class CommitTarget(_Model):
    """`commitTarget`: where the ledger is. Exactly one of the two kinds."""

    postgres: CommitPostgres | None = None
    webhook: CommitWebhook | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.postgres is None) == (self.webhook is None):
            raise ValueError("commitTarget needs exactly one of postgres and webhook")
        return self


class Configuration(_Model):
    """One generation of a pool's configuration. Unknown keys are ignored: the SQL may be newer than the bridge."""

    generation: int
    batch_size: int = Field(ge=1)
    visibility_timeout_seconds: float = Field(gt=0)
    max_retries: int = Field(ge=0)
    paused: bool = False
    max_per_second: float | None = None
    max_payload_bytes: int = Field(default=4096, ge=1)
    latency_budget_milliseconds: float = Field(default=1000, gt=0)
    validation: Webhook | None = None
    commit_target: CommitTarget | None = None

    @model_validator(mode="before")
    @classmethod
    def _validation_may_be_wrapped(cls, data: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The CR says `validation.webhook`, the SQL returns the webhook itself; both are accepted."""
        if isinstance(data, dict) and isinstance(data.get("validation"), dict) and "webhook" in data["validation"]:
            return data | {"validation": data["validation"]["webhook"]}
        return data
