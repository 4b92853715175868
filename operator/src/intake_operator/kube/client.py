"""The verbs of the Kubernetes API that the operator needs, on plain dicts, through the official async client.

Not on its dynamic client: that discovers each API group with requests and a cache file, has no `fieldValidation`, and
would replace only RESOURCES and `_path`; the time limit, the errors, the preconditions and the reviews would stay here.
"""

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from intake_shared.redaction import one_line
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from intake_operator import names
from intake_operator.model.observed import Manifest

# Kind to the path of its API group and its plural.
RESOURCES: Final[Mapping[str, tuple[str, str]]] = {
    names.KIND: (f"apis/{names.API_VERSION}", names.PLURAL),
    "ConfigMap": ("api/v1", "configmaps"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "Event": ("api/v1", "events"),
    "Namespace": ("api/v1", "namespaces"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Pod": ("api/v1", "pods"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "Secret": ("api/v1", "secrets"),
    "Service": ("api/v1", "services"),
    "StatefulSet": ("apis/apps/v1", "statefulsets"),
    "StorageClass": ("apis/storage.k8s.io/v1", "storageclasses"),
}

# Requests that create no object; the answer is their status. Kind to the path of its API group.
REVIEWS: Final[Mapping[str, str]] = {
    "SubjectAccessReview": "apis/authorization.k8s.io/v1",
    "TokenReview": "apis/authentication.k8s.io/v1",
}

# Seconds. The client's own default is five minutes: for so long a broken connection would block a worker.
REQUEST_TIMEOUT: Final = 30

APPLY: Final = "application/apply-patch+yaml"
PATCH: Final = "application/json-patch+json"


class ApiError(Exception):
    """The API server refused: `status` is the HTTP code, `reason` its own word (NotFound, AlreadyExists, Invalid …)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status = status
        self.reason = reason


class BrokenWatchError(Exception):
    """A watch has ended before its time: `reason` is `silent`, or `broken`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Page:
    """A part of a list: the list is as the cluster was at `version`. `more` asks for the next part; empty: none."""

    items: Sequence[Manifest]
    version: int
    more: str


def _uncounted(_verb: str, _kind: str) -> None:
    """Nobody counts."""


class Cluster:
    """The API server, through one connection pool. Every method raises ApiError where the server refuses.

    `count` hears of each request: its verb and its kind.
    """

    def __init__(self, api: client.ApiClient, count: Callable[[str, str], None] = _uncounted) -> None:
        self._api = api
        self._count = count

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None if there is none."""
        self._count("get", kind)
        try:
            return await self._call("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list_everywhere(self, kind: str, namespaces: Sequence[str]) -> list[Manifest]:
        """All objects of a kind in these namespaces; with an empty list, in all namespaces."""
        self._count("list", kind)
        paths = [_path(kind, namespace) for namespace in namespaces or ("",)]
        return [item for path in paths for item in (await self._call("GET", path))["items"]]

    async def list_page(self, kind: str, namespace: str, label_selector: str, limit: int, more: str = "") -> Page:
        """A part of all objects of a kind: in one namespace, or with an empty one in all."""
        self._count("list", kind)
        query = {"limit": str(limit), "labelSelector": label_selector, "continue": more}
        found = await self._call("GET", _path(kind, namespace), {name: value for name, value in query.items() if value})
        meta = found["metadata"]
        return Page(found["items"], int(meta["resourceVersion"]), meta.get("continue") or "")

    async def watch(
        self, kind: str, namespace: str, label_selector: str, version: int, seconds: int, silence: float
    ) -> AsyncGenerator[tuple[str, Manifest]]:
        """What happens after `version`: ADDED, MODIFIED, DELETED or BOOKMARK, and the object. Ends after `seconds`.

        Raises BrokenWatchError where nothing comes for `silence` seconds, or where the connection breaks, and ApiError
        with status 410 where the API server does not know any more what has happened since.
        """
        self._count("watch", kind)
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": str(version)}
        query |= {"timeoutSeconds": str(seconds)} | ({"labelSelector": label_selector} if label_selector else {})
        timeout = aiohttp.ClientTimeout(
            total=seconds + REQUEST_TIMEOUT, sock_connect=REQUEST_TIMEOUT, sock_read=silence
        )
        request = await self._request("GET", _path(kind, namespace), query)
        try:
            response = await self._api.call_api(*request, _request_timeout=timeout)
            try:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())  # type: ignore[no-untyped-call]
                async for line in response.response.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _refusal(int(event["object"].get("code") or 0), json.dumps(event["object"]).encode())
                    yield event["type"], event["object"]
            finally:
                response.response.close()
        except ApiException as error:
            raise ApiError(error.status or 0, str(error.reason), str(error.body)) from error
        except TimeoutError as error:
            raise BrokenWatchError("silent", f"nothing was heard for {silence:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenWatchError("broken", one_line(error)) from error

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        """All objects of a kind with these labels."""
        self._count("list", kind)
        found = await self._call("GET", _path(kind, namespace), {"labelSelector": label_selector})
        items: list[Manifest] = found["items"]
        for item in items:
            item["kind"] = kind
        return items

    async def events_about(self, kind: str, namespace: str, name: str, reason: str) -> Sequence[Manifest]:
        """The Kubernetes Events of one reason about one object."""
        self._count("list", "Event")
        selector = f"involvedObject.kind={kind},involvedObject.name={name},reason={reason}"
        found = await self._call("GET", _path("Event", namespace), {"fieldSelector": selector})
        items: Sequence[Manifest] = found["items"]
        return items

    async def apply(self, manifest: Manifest, field_manager: str, *, subresource: str = "") -> Manifest:
        """Server-side apply. It takes over fields of other managers, because the objects are the operator's."""
        self._count("apply", f"{manifest['kind']}/{subresource}" if subresource else manifest["kind"])
        meta = manifest["metadata"]
        path = _path(manifest["kind"], meta["namespace"], meta["name"], subresource)
        query = {"fieldManager": field_manager, "force": "true", "fieldValidation": "Strict"}
        return await self._call("PATCH", path, query, manifest, APPLY)

    async def patch(
        self, kind: str, namespace: str, name: str, patch: Sequence[Mapping[str, object]], field_manager: str
    ) -> Manifest:
        """JSON patch. Raises ApiError with reason Invalid if one of its tests fails."""
        self._count("patch", kind)
        return await self._call("PATCH", _path(kind, namespace, name), {"fieldManager": field_manager}, patch, PATCH)

    async def create(self, manifest: Manifest, field_manager: str) -> Manifest:
        """Create. Raises ApiError with reason AlreadyExists if it exists."""
        self._count("create", manifest["kind"])
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        return await self._call("POST", path, {"fieldManager": field_manager}, manifest)

    async def delete(
        self, kind: str, namespace: str, name: str, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Delete, its dependents in the background. No error if it is gone, or if its name has another uid by now."""
        self._count("delete", kind)
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            await self._call("DELETE", _path(kind, namespace, name), body=body)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def review(self, kind: str, spec: Manifest) -> Manifest:
        """The status of a TokenReview or SubjectAccessReview."""
        self._count("create", kind)
        folder = REVIEWS[kind]
        body = {"apiVersion": folder.removeprefix("apis/"), "kind": kind, "spec": spec}
        reviewed = await self._call("POST", f"/{folder}/{kind.lower()}s", body=body)
        status: Manifest = reviewed.get("status") or {}
        return status

    async def close(self) -> None:
        """Close the connection pool."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | Sequence[Mapping[str, object]] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        request = await self._request(method, path, query, body, content_type)
        try:
            response = await self._api.call_api(*request, _request_timeout=REQUEST_TIMEOUT)
        except ApiException as error:
            raise ApiError(error.status or 0, str(error.reason), str(error.body)) from error
        content = await response.read()  # type: ignore[no-untyped-call]
        if not 200 <= response.status < 300:
            raise _refusal(response.status, content)
        answer: Manifest = json.loads(content) if content else {}
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | Sequence[Mapping[str, object]] | None = None,
        content_type: str = "application/json",
    ) -> tuple[str, str, dict[str, str] | None, Any, Any]:
        return await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )


def _refusal(status: int, content: bytes) -> ApiError:
    """The error of an answer that is not what was asked for: a proxy's need not be JSON."""
    try:
        answer = json.loads(content)
        return ApiError(status, str(answer.get("reason", "")), str(answer.get("message", "")))
    except (ValueError, AttributeError):
        return ApiError(status, "", content[:200].decode(errors="replace"))


async def connect(count: Callable[[str, str], None] = _uncounted) -> Cluster:
    """The cluster of this pod, or else the one that KUBECONFIG names."""
    settings = client.Configuration()
    # Each watch keeps a connection of its own, so their number follows the namespaces; the workers bound the others.
    settings.connection_pool_maxsize = 0
    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    return Cluster(client.ApiClient(settings), count)


def _path(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    folder, plural = RESOURCES[kind]
    within = ["namespaces", quote(namespace, safe="")] if namespace else []
    parts = [folder, *within, plural, quote(name, safe=""), subresource]
    return "/" + "/".join(part for part in parts if part)
