"""Authenticates and authorizes a request: TokenReview, then SubjectAccessReview on the IntakeEvent."""

from dataclasses import dataclass
from typing import Any, Final

from intake_operator import names
from intake_operator.admin.answers import RefusedError
from intake_operator.kube.client import Cluster

# A token for this audience is accepted by this API and by nothing else, so it is the one to use. Tokens for the API
# server are accepted too: they are what a kubeconfig has.
AUDIENCE: Final = "intake-engine.io"

HOW_TO_GET_A_TOKEN: Final = f"`kubectl create token <service account> --audience={AUDIENCE}` makes one"


@dataclass(frozen=True)
class User:
    """A caller as Kubernetes knows them."""

    name: str
    uid: str
    groups: tuple[str, ...]
    extra: dict[str, list[str]]


@dataclass(frozen=True)
class Authorizer:
    """Asks the API server on every request: a right that is taken away is gone at once."""

    cluster: Cluster

    async def authorize(self, authorization: str, namespace: str, event: str, verb: str, subresource: str) -> User:
        """The user of the Authorization header. Raises RefusedError: 401 no valid token, 403 no right."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise RefusedError(401, "Unauthorized", f"send `Authorization: Bearer <token>`; {HOW_TO_GET_A_TOKEN}")
        user = await self._review(token, [AUDIENCE]) or await self._review(token, [])
        if user is None:
            raise RefusedError(
                401, "Unauthorized", f"Kubernetes does not know this token, or it has expired; {HOW_TO_GET_A_TOKEN}"
            )
        attributes = {
            "namespace": namespace,
            "name": event,
            "verb": verb,
            "group": names.GROUP,
            "version": names.VERSION,
            "resource": names.PLURAL,
            "subresource": subresource,
        }
        spec = {"user": user.name, "uid": user.uid, "groups": list(user.groups), "extra": user.extra}
        review = await self.cluster.review("SubjectAccessReview", spec | {"resourceAttributes": attributes})
        if not review.get("allowed"):
            raise RefusedError(
                403,
                "Forbidden",
                f"{names.PLURAL}.{names.GROUP} {event!r} is forbidden: user {user.name!r} cannot {verb} resource "
                f"{names.PLURAL}/{subresource} in the namespace {namespace!r}. The role view may list; edit may also "
                "replay, discard, withhold and reconcile; admin may also see payloads.",
            )
        return user

    async def _review(self, token: str, audiences: list[str]) -> User | None:
        spec = {"token": token, **({"audiences": audiences} if audiences else {})}
        review = await self.cluster.review("TokenReview", spec)
        # An authenticator without support for audiences returns none: the token is one for the API server.
        for_this_api = not audiences or set(audiences) & set(review.get("audiences") or ())
        if not review.get("authenticated") or not for_this_api:
            return None
        user: dict[str, Any] = review["user"]
        return User(
            str(user["username"]),
            str(user.get("uid") or ""),
            tuple(user.get("groups") or ()),
            dict(user.get("extra") or {}),
        )
