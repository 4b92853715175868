"""The admin API over HTTP: routes, and where it listens.

Without a certificate it listens on the pod's loopback only. `kubectl port-forward` leads there: Kubernetes authorizes
it, and encrypts it up to the kubelet. With a certificate it also listens on the pod's address, with TLS. A request
carries a bearer token in both cases.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import ClientError, web
from intake_shared.redaction import one_line

from intake_operator.admin import withheld
from intake_operator.admin.answers import RefusedError, answer
from intake_operator.admin.authorizer import Authorizer, User
from intake_operator.admin.requests import Discard, Payloads, Replay, body, page
from intake_operator.admin.service import AdminService
from intake_operator.kube.client import ApiError
from intake_operator.model.observed import Event
from intake_operator.workqueue import Key

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
# Bytes; MOST_IDS ids of 19 digits, and a reason.
LARGEST_BODY: Final = 64 * 1024
EVENT: Final = "/v1alpha1/namespaces/{namespace}/intakeevents/{event}"
# Only names that Kubernetes allows: `..%2F..%2Fother` would be authorized in this namespace and looked up in another.
ROUTE: Final = EVENT.replace("}", ":[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?}")

DEAD_LETTERS: Final = "deadletters"
PAYLOADS: Final = "payloads"

type Action = Callable[[web.Request, Event, User], Awaitable[web.Response]]


@dataclass(frozen=True)
class Listen:
    """Where the admin API listens; a port of 0 means nowhere."""

    port: int
    tls_port: int = 0
    tls_dir: Path | None = None
    """A folder with tls.crt and tls.key, as a Secret of type kubernetes.io/tls is mounted."""


def application(authorizer: Authorizer, service: AdminService, wake: Callable[[Key], None]) -> web.Application:
    """The routes. `wake` puts an event on the work queue after a change."""

    def authorized(verb: str, subresource: str, action: Action) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            namespace, name = request.match_info["namespace"], request.match_info["event"]
            authorization = request.headers.get("Authorization", "")
            user = await authorizer.authorize(authorization, namespace, name, verb, subresource)
            return await action(request, await service.find(namespace, name), user)

        return handle

    async def list_dead_letters(request: web.Request, event: Event, _: User) -> web.Response:
        wanted = page(request)
        found = await service.dead_letters(event, wanted)
        more = {"continue": str(found[-1].id)} if len(found) == wanted.limit else {}
        return answer("DeadLetterList", metadata=more, items=[letter.shown() for letter in found])

    async def replay(request: web.Request, event: Event, user: User) -> web.Response:
        done = await service.replay(event, await body(request, Replay), user.name)
        wake((event.namespace, event.name))
        return answer("Replay", **done)

    async def discard(request: web.Request, event: Event, user: User) -> web.Response:
        done = await service.discard(event, await body(request, Discard), user.name)
        wake((event.namespace, event.name))
        return answer("Discard", **done)

    async def payloads(request: web.Request, event: Event, user: User) -> web.Response:
        found = await service.payloads(event, await body(request, Payloads), user.name)
        response = answer("DeadLetterPayloadList", **found)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def audit(request: web.Request, event: Event, _: User) -> web.Response:
        wanted = page(request)
        found = await service.audit(event, wanted)
        more = {"continue": str(found[-1]["id"])} if len(found) == wanted.limit else {}
        return answer("AuditList", metadata=more, items=found)

    async def reconcile(_: web.Request, event: Event, __: User) -> web.Response:
        return answer("Reconciliation", **await service.reconcile(event))

    app = web.Application(middlewares=[_errors_as_status], client_max_size=LARGEST_BODY)
    app.add_routes(
        [
            web.get(f"{ROUTE}/deadletters", authorized("get", DEAD_LETTERS, list_dead_letters)),
            web.post(f"{ROUTE}/deadletters/replay", authorized("update", DEAD_LETTERS, replay)),
            web.post(f"{ROUTE}/deadletters/discard", authorized("update", DEAD_LETTERS, discard)),
            # Not `get`: a role that may read everything does not have `create`, and is not meant for personal data.
            web.post(f"{ROUTE}/deadletters/payloads", authorized("create", PAYLOADS, payloads)),
            web.post(f"{ROUTE}/reconcile", authorized("create", "reconcile", reconcile)),
            web.get(f"{ROUTE}/audit", authorized("get", DEAD_LETTERS, audit)),
        ]
    )
    app.add_routes(withheld.routes(ROUTE, service, authorized, wake))
    return app


async def serve(app: web.Application, listen: Listen) -> web.AppRunner:
    """Start listening. Raises OSError if the port is taken or the certificate cannot be read."""
    # Seconds that a stop waits for requests under way. A request that is cut off can be repeated.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    if listen.port:
        await web.TCPSite(runner, LOOPBACK, listen.port).start()
    if listen.tls_dir is not None and listen.tls_port:
        await web.TCPSite(runner, port=listen.tls_port, ssl_context=_context(listen.tls_dir)).start()
    return runner


def _context(folder: Path) -> ssl.SSLContext:
    """TLS that reads the certificate in the folder again when it changes, so a renewed one needs no restart."""
    certificate, key = folder / "tls.crt", folder / "tls.key"

    def fresh() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return context

    read, latest = certificate.stat().st_mtime_ns, fresh()

    def choose(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        nonlocal read, latest
        try:
            if (changed := certificate.stat().st_mtime_ns) != read:
                latest, read = fresh(), changed
        except OSError as error:
            # SSLError is an OSError: certificate and key do not match while they are being replaced.
            logger.warning(
                "cannot read the new certificate of the admin API; the former one stays in use",
                extra={"error": one_line(error)},
            )
        connection.context = latest

    outer = fresh()
    outer.sni_callback = choose
    return outer


@web.middleware
async def _errors_as_status(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as refusal:
        return refusal.response()
    except web.HTTPNotFound:
        return RefusedError(404, "NotFound", f"no such path; docs/admin.md lists those under {EVENT}").response()
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return RefusedError(405, "MethodNotAllowed", f"{request.method} is not allowed here; use {allowed}").response()
    except (ApiError, ClientError, TimeoutError) as error:
        logger.warning("admin request failed", extra={"error": one_line(error)})
        cause = getattr(error, "reason", "") or "no answer"
        return RefusedError(
            503, "ServiceUnavailable", f"the Kubernetes API server failed: {cause}; try again", retry_after=5
        ).response()
    except Exception:
        logger.exception("admin request failed")
        return RefusedError(
            500, "InternalError", "the operator failed unexpectedly; its log has the traceback"
        ).response()
