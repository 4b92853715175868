"""The process's own settings, from the environment; secrets also from files, which are read again at each use."""

import asyncio
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from intake_bridge.faults import Fault, parse_faults


class MissingSettingError(Exception):
    """A setting that is needed now is not there; the text names it."""


class Secrets:
    """Values that may come as NAME or as NAME_FILE; a file wins, and is read again each time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    async def optional(self, name: str) -> str | None:
        """The value, or None when neither form is set or NAME is empty. A file that is empty is an error."""
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
        """The value, or MissingSettingError."""
        value = await self.optional(name)
        if value is None:
            raise MissingSettingError(f"neither {name} nor {name}_FILE is set")
        return value


class Settings(BaseModel):
    """What does not change while the process lives."""

    model_config = ConfigDict(frozen=True)

    pool: Annotated[str, Field(min_length=1, max_length=63)]
    worker: str
    """Who, and which life: `<uid of the pod>-<8 hex digits of this boot>`, in leases, heartbeats, logs and metrics."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # For tests: where this worker is to die, stand still or lose a reply.
    faults: Annotated[tuple[Fault, ...], BeforeValidator(parse_faults)] = ()


async def load(environment: Mapping[str, str] = os.environ) -> tuple[Settings, Secrets]:
    """Read the environment; raises MissingSettingError or pydantic's ValidationError."""
    secrets = Secrets(environment)
    await secrets.required("INTAKE_DATABASE_URI")
    # The pod's uid alone is no identity: a restarted container has the same one while its predecessor's lease runs.
    worker = await secrets.optional("INTAKE_WORKER") or socket.gethostname()
    settings = Settings.model_validate(
        {
            "pool": await secrets.required("INTAKE_POOL"),
            "worker": f"{worker}-{uuid.uuid4().hex[:8]}",
            "http_port": await secrets.optional("INTAKE_HTTP_PORT") or "8080",
            "log_level": (await secrets.optional("INTAKE_LOG_LEVEL") or "info").upper(),
            "faults": await secrets.optional("INTAKE_FAULTS") or "",
        }
    )
    return settings, secrets
