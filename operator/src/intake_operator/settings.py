"""The operator's settings, from environment variables that the chart sets."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from intake_operator.model.pod_settings import Defaults
from intake_operator.workqueue import WORKERS


class SettingsError(Exception):
    """A setting is wrong; the message says which, and what is wrong with it."""


class Settings(BaseSettings):
    """Read once, at start. A variable is named INTAKE_ and the field."""

    model_config = SettingsConfigDict(env_prefix="INTAKE_", frozen=True)

    operator_namespace: str = ""
    """Its own; empty where it runs outside of the cluster."""
    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to watch; empty means all."""
    bridge_image: str = "intake-engine/bridge:dev"
    bridge_pull_policy: str = "IfNotPresent"
    bridge_traces_endpoint: str = ""
    guard: str = "intake-engine"
    """Value of GUARD_LABEL on the children of an event with unsettled claims, as the chart's policies expect it."""
    defaults: Annotated[Defaults, NoDecode] = Defaults()
    """Where the pods of all events run and what they carry, unless the event says otherwise; JSON."""
    fixed_ids: bool = True
    """Whether pods name their user and groups; otherwise the cluster's admission sets them."""
    cluster_domain: str = ""
    """The cluster's domain; empty: as the pod's resolv.conf has it."""
    sql_dir: Path = Path("/usr/share/intake-engine/sql")
    """The folder that contains intake/."""
    log_level: str = "INFO"
    http_port: int = 8080
    admin_port: int = 8081
    """The port of the admin API on the pod's loopback; 0 switches it off."""
    admin_tls_dir: Path | None = None
    """A folder with tls.crt and tls.key: with it, the admin API listens on all addresses, on `admin_tls_port`."""
    admin_tls_port: int = 8443
    workers: int = Field(default=WORKERS, ge=1)
    """Passes that run at the same time."""

    @classmethod
    def from_environment(cls) -> Self:
        """The settings of this process. Raises SettingsError, in one line."""
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError(_told(error, "INTAKE_")) from None

    def summary(self) -> str:
        """What this operator serves, and where it listens: for the first log line."""
        admin = [f"on 127.0.0.1:{self.admin_port}"] if self.admin_port else []
        if self.admin_tls_dir is not None and self.admin_tls_port:
            admin.append(f"with TLS on port {self.admin_tls_port}")
        return (
            f"namespaces: {', '.join(self.namespaces) or 'all'}; bridge image: {self.bridge_image}; "
            f"metrics and probes on port {self.http_port}; admin API {' and '.join(admin) or 'off'}"
        )

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(n.strip() for n in value.split(",") if n.strip()) if isinstance(value, str) else value

    @field_validator("defaults", mode="before")
    @classmethod
    def _as_the_crd_has_them(cls, value: object) -> object:
        """Nobody else checks what the chart says for all events, and one wrong word would hold up every one of them."""
        if not isinstance(value, str):
            return value
        try:
            found = Defaults.model_validate_json(value or "{}", extra="forbid")
        except ValidationError as error:
            raise ValueError(_told(error)) from None
        if wrong := list(found.problems()):
            raise ValueError("; ".join(wrong))
        return found


def _told(error: ValidationError, prefix: str = "") -> str:
    """Each field that is wrong, and why."""
    fields = ((".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")) for each in error.errors())
    return "; ".join(f"{prefix}{field.upper() if prefix else field}: {why}".removeprefix(": ") for field, why in fields)
