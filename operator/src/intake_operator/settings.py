"""The operator's settings, from environment variables that the chart sets."""

from pathlib import Path
from typing import Annotated

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Read once, at start. A variable is named INTAKE_ and the field."""

    model_config = SettingsConfigDict(env_prefix="INTAKE_", frozen=True)

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to watch; empty means all."""
    bridge_image: str = "intake-engine/bridge:dev"
    bridge_pull_policy: str = "IfNotPresent"
    bridge_traces_endpoint: str = ""
    guard: str = "intake-engine"
    """Value of GUARD_LABEL on the children of an event with unsettled claims, as the chart's policies expect it."""
    sql_dir: Path = Path("/usr/share/intake-engine/sql")
    """The folder that contains intake/."""
    log_level: str = "INFO"
    http_port: int = 8080
    admin_port: int = 8081
    """The port of the admin API on the pod's loopback; 0 switches it off."""
    admin_tls_dir: Path | None = None
    """A folder with tls.crt and tls.key: with it, the admin API listens on all addresses, on `admin_tls_port`."""
    admin_tls_port: int = 8443
    workers: int = 8
    """Passes that run at the same time."""

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(n.strip() for n in value.split(",") if n.strip()) if isinstance(value, str) else value
