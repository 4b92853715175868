"""Who asks, and may he? Kubernetes says both: TokenReview, then SubjectAccessReview on the IntakeEvent."""

from dataclasses import dataclass
from typing import Any, Final

from intake_operator import names
from intake_operator.admin.answers import RefusedError
from intake_operator.kube.client import Cluster

# A token that was made for this audience is good for this API and for nothing else, so it is the one to use. Those
# that the API server itself takes are taken, too: they are what a kubeconfig has.
AUDIENCE: Final = "intake-engine.io"

# The longest header line that the server reads is 8190 bytes; a token of Kubernetes has about 1000.
HOW_TO_GET_ONE: Final = f"`kubectl create token <service account> --audience={AUDIENCE}` makes one"


@dataclass(frozen=True)
class User:
    """Somebody whom Kubernetes knows."""

    name: str
    uid: str
    groups: tuple[str, ...]
    extra: dict[str, list[str]]


@dataclass(frozen=True)
class Gatekeeper:
    """Asks the API server on every request: a right that is taken away is gone at once."""

    cluster: Cluster

    async def admit(self, authorization: str, namespace: str, event: str, verb: str, subresource: str) -> User:
        """The user behind the Authorization header, if he may. Raises RefusedError 401 or 403."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise RefusedError(401, "Unauthorized", f"send `Authorization: Bearer <token>`; {HOW_TO_GET_ONE}")
        user = await self._review(token, [AUDIENCE]) or await self._review(token, [])
        if user is None:
            raise RefusedError(401, "Unauthorized", f"the token is not known here, or has expired; {HOW_TO_GET_ONE}")
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
                f"{names.PLURAL}/{subresource} in the namespace {namespace!r}. The role view lets look, edit lets act.",
            )
        return user

    async def _review(self, token: str, audiences: list[str]) -> User | None:
        spec = {"token": token, **({"audiences": audiences} if audiences else {})}
        review = await self.cluster.review("TokenReview", spec)
        # An authenticator that knows nothing of audiences answers none, and then the token is for the API server.
        meant_for_us = not audiences or set(audiences) & set(review.get("audiences") or ())
        if not review.get("authenticated") or not meant_for_us:
            return None
        user: dict[str, Any] = review["user"]
        return User(
            str(user["username"]),
            str(user.get("uid") or ""),
            tuple(user.get("groups") or ()),
            dict(user.get("extra") or {}),
        )
