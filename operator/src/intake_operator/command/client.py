"""The admin API over HTTP."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx

from intake_operator.command.problem import Exit, ProblemError

# The server's limits.
IDS_A_REQUEST: Final = 500
PAYLOADS_A_REQUEST: Final = 100
ENTRIES_A_PAGE: Final = 1000
# By HTTP status; any other status is a failure. The server refuses with 422 what the command line said.
EXITS: Final = {401: Exit.DENIED, 403: Exit.DENIED, 422: Exit.USAGE}

type Answer = dict[str, Any]


@dataclass(frozen=True)
class Client:
    """The admin API for one event. Every method raises ProblemError for an answer that is no success."""

    http: httpx.Client
    namespace: str
    event: str

    def entries(self, path: str, most: int | None = None) -> Iterator[Answer]:
        """The entries of a list (`deadletters`, `audit`), read page by page; at most `most` of them."""
        position: dict[str, str] = {}
        left = most
        while left is None or left > 0:
            limit = ENTRIES_A_PAGE if left is None else min(left, ENTRIES_A_PAGE)
            page = self._call("GET", path, params={"limit": str(limit), **position})
            yield from page["items"]
            if "continue" not in page["metadata"]:
                return
            position = {"continue": page["metadata"]["continue"]}
            left = None if left is None else left - limit

    def act(self, action: str, ids: Sequence[int], request: Mapping[str, object]) -> Iterator[Answer]:
        """`replay`, `discard` or show the `payloads` of these ids, in parts; yields the answer to each part."""
        most = PAYLOADS_A_REQUEST if action == "payloads" else IDS_A_REQUEST
        for first in range(0, len(ids), most):
            yield self._call("POST", f"deadletters/{action}", json={"ids": list(ids[first : first + most]), **request})

    def post(self, path: str, content: Mapping[str, object]) -> Answer:
        """Ask for a change."""
        return self._call("POST", path, json=content)

    def reconcile(self) -> Answer:
        """Compare DB1 with the ledger, now."""
        return self._call("POST", "reconcile")

    def _call(self, method: str, path: str, **content: Any) -> Answer:
        url = f"/v1alpha1/namespaces/{quote(self.namespace, safe='')}/intakeevents/{quote(self.event, safe='')}/{path}"
        try:
            response = self.http.request(method, url, **content)
        except httpx.HTTPError as error:
            raise ProblemError(
                Exit.FAILED,
                f"the admin API at {self.http.base_url} does not answer: {str(error) or type(error).__name__}",
            ) from error
        try:
            answer: Answer = response.json()
        except ValueError as error:
            raise ProblemError(
                Exit.FAILED, f"{self.http.base_url} is not the admin API: HTTP {response.status_code} without JSON"
            ) from error
        if response.status_code >= 400:
            message = str(answer.get("message") or f"HTTP {response.status_code}")
            raise ProblemError(EXITS.get(response.status_code, Exit.FAILED), message)
        return answer
