"""The settings of the process, from the environment. Secrets may come from files, which are read again at each use."""

import asyncio
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class MissingSettingError(Exception):
    """A setting that is needed now is missing or cannot be read. The text names it."""


class Secrets:
    """Values of NAME, or of the file that NAME_FILE names. A file wins, and is read again each time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    async def optional(self, name: str) -> str | None:
        """The value, or None when neither is set. MissingSettingError for a file that cannot be used."""
        if path := self._environment.get(f"{name}_FILE"):
            try:
                value = await asyncio.to_thread(Path(path).read_text, encoding="utf-8")
            except OSError as error:
                raise MissingSettingError(f"{name}_FILE cannot be read: {error.strerror}: {path}") from error
            except UnicodeDecodeError as error:
                raise MissingSettingError(f"{name}_FILE is not text: {path}") from error
            if not value.strip():
                raise MissingSettingError(f"{name}_FILE is empty: {path}")
        else:
            value = self._environment.get(name, "")
        return value.strip() or None

    async def required(self, name: str) -> str:
        """The value. Raises MissingSettingError when there is none."""
        value = await self.optional(name)
        if value is None:
            raise MissingSettingError(f"neither {name} nor {name}_FILE is set")
        return value


class Settings(BaseModel):
    """What does not change while the process lives."""

    model_config = ConfigDict(frozen=True)

    pool: Annotated[str, Field(min_length=1, max_length=63)]
    worker: str
    """`<uid of the pod>-<8 hex digits of this start>`: its name in leases, heartbeats, logs and metrics."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


async def load(environment: Mapping[str, str] = os.environ) -> tuple[Settings, Secrets]:
    """Read the environment; raises MissingSettingError or pydantic's ValidationError."""
    secrets = Secrets(environment)
    await secrets.required("INTAKE_DATABASE_URI")
    # The pod's uid is not enough: a restarted container has the same uid, and the leases of its last life still run.
    worker = await secrets.optional("INTAKE_WORKER") or socket.gethostname()
    settings = Settings.model_validate(
        {
            "pool": await secrets.required("INTAKE_POOL"),
            "worker": f"{worker}-{uuid.uuid4().hex[:8]}",
            "http_port": await secrets.optional("INTAKE_HTTP_PORT") or "8080",
            "log_level": (await secrets.optional("INTAKE_LOG_LEVEL") or "info").upper(),
        }
    )
    return settings, secrets
