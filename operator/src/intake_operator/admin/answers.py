"""Answers of the admin API. A refusal is a Status object of Kubernetes and says what to do."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from intake_operator import names

API_VERSION = f"admin.{names.GROUP}/v1alpha1"


class RefusedError(Exception):
    """A request that is refused. `code` is the HTTP status; `reason` is a constant word that programs may compare."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        causes: Sequence[tuple[str, str]] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self._causes = causes
        self._retry_after = retry_after

    def response(self) -> web.Response:
        """The refusal as an HTTP response."""
        details: dict[str, Any] = {}
        headers: dict[str, str] = {}
        if self._causes:
            details["causes"] = [{"field": field, "message": message} for field, message in self._causes]
        if self._retry_after is not None:
            details["retryAfterSeconds"] = self._retry_after
            headers["Retry-After"] = str(self._retry_after)
        if self.code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
        }
        return web.json_response(body | ({"details": details} if details else {}), status=self.code, headers=headers)


def answer(kind: str, **content: object) -> web.Response:
    """An object of the API as an HTTP response."""
    return web.json_response({"kind": kind, "apiVersion": API_VERSION, **content})
