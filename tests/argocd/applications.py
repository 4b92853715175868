"""An Argo CD Application, as a user makes it, and what Argo CD says of it."""

import json
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tests.argocd.processes import API, NAMESPACE
from tests.argocd.repository import Repository
from tests.e2e import events
from tests.e2e.kube import Kube, Object, eventually

# From a push to a sync on a healthy machine; a first look at a cluster takes longest.
SYNC_SECONDS: Final = 60.0
# Argo CD's own default: foreground, as with automated pruning.
FINALIZER: Final = "resources-finalizer.argocd.argoproj.io"
CLUSTER: Final = "https://kubernetes.default.svc"


@dataclass(frozen=True)
class Application:
    """One Application; `kube` is the namespace that it applies to."""

    kube: Kube
    name: str
    repository: Repository

    @property
    def _argocd(self) -> Kube:
        return self.kube.within(NAMESPACE)

    def create(self, *, options: tuple[str, ...] = (), compare: str = "", sources: Sequence[Object] = ()) -> None:
        """Automated, with prune and self-heal, from the root of the repository or from several places.

        What fails is tried again as docs/gitops.md recommends: with the latest commit, and without end.
        """
        root = {"repoURL": self.repository.url, "path": ".", "targetRevision": "main"}
        spec = {
            **({"sources": list(sources)} if sources else {"source": root}),
            "project": "default",
            "destination": {"server": CLUSTER, "namespace": self.kube.namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": list(options),
                "retry": {
                    "limit": -1,
                    "refresh": True,
                    "backoff": {"duration": "5s", "factor": 2, "maxDuration": "1m"},
                },
            },
        }
        self._argocd.apply(
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Application",
                "metadata": {
                    "name": self.name,
                    "namespace": NAMESPACE,
                    "finalizers": [FINALIZER],
                    "annotations": {"argocd.argoproj.io/compare-options": compare} if compare else {},
                },
                "spec": spec,
            }
        )

    def delete(self) -> None:
        """As `argocd app delete` does: its resources go first."""
        self._argocd.delete("application", self.name)

    def confirm(self) -> None:
        """Agree to what sync options have asked a person."""
        note = f"argocd.argoproj.io/deletion-approved={events.instant(datetime.now(UTC))}"
        self._argocd.kubectl("annotate", "application", self.name, note, "--overwrite")

    def forget(self) -> None:
        """Take it away; its resources stay."""
        if self.exists():
            self._argocd.patch("application", self.name, {"metadata": {"finalizers": None}})
            self._argocd.kubectl("delete", "application", self.name, "--ignore-not-found")

    def change(self, **spec: object) -> None:
        """Change fields of the Application's own spec."""
        self._argocd.patch("application", self.name, {"spec": spec})

    def exists(self) -> bool:
        """Whether it is still there."""
        return self._argocd.find("application", self.name) is not None

    def status(self) -> Object:
        """What Argo CD has found out."""
        found = self._argocd.find("application", self.name) or {}
        status: Object = found.get("status") or {}
        return status

    def push(self) -> str:
        """Commit, and ask Argo CD to look, as a webhook of the Git server does."""
        revision = self.repository.push()
        self.refresh("normal")
        return revision

    def refresh(self, how: str = "hard") -> None:
        """Ask Argo CD to look now; `hard` renders the manifests anew."""
        note = f"argocd.argoproj.io/refresh={how}"
        self._argocd.kubectl("annotate", "application", self.name, note, "--overwrite")

    def looked(self) -> Object:
        """The status after one more look at everything."""
        self.refresh()

        def done() -> Object | None:
            found = self._argocd.get("application", self.name)
            asked = "argocd.argoproj.io/refresh" in found["metadata"].get("annotations", {})
            return None if asked else found

        found = eventually(done, SYNC_SECONDS, f"{self.name} was refreshed")
        assert found is not None
        status: Object = found["status"]
        return status

    def await_synced(self, revision: str = "", deadline: float = SYNC_SECONDS) -> None:
        """Wait until Argo CD has applied a commit, and sees no difference."""

        def synced() -> bool:
            status = self.status()
            sync = status.get("sync") or {}
            revisions = {sync.get("revision"), *(sync.get("revisions") or ())}
            assert sync.get("status") == "Synced", self.explain(status)
            assert not revision or revision in revisions, self.explain(status)
            return True

        eventually(synced, deadline, f"{self.name} is Synced {revision[:8]}")

    def await_sync_failed(self, deadline: float) -> None:
        """Wait until Argo CD has given up a sync, and tries again."""

        def failed() -> bool:
            state = self.status().get("operationState") or {}
            assert state.get("retryCount"), state
            return True

        eventually(failed, deadline, f"a sync of {self.name} has failed")

    def await_health(self, wanted: str, deadline: float, kind: str = "IntakeEvent") -> str:
        """Wait for the health of the Application's only object of this kind; return what Argo CD shows with it."""

        def healthy() -> Object | None:
            seen = self.health(kind)
            assert seen.get("status") == wanted, f"{kind} {seen}; {self.explain(self.status())}"
            return seen

        found = eventually(healthy, deadline, f"the {kind} of {self.name} is {wanted}")
        assert found is not None
        message: str = found.get("message", "")
        return message

    def health(self, kind: str = "IntakeEvent") -> Object:
        """The health of the Application's only object of this kind."""
        tree = self._ask("resource-tree")
        roots = [n for n in tree.get("nodes") or () if n["kind"] == kind and not n.get("parentRefs")]
        health: Object = roots[0].get("health") or {} if roots else {}
        return health

    def await_healthy(self, deadline: float, wanted: str = "Healthy") -> None:
        """Wait until the whole Application is Healthy, or has another health."""

        def healthy() -> bool:
            status = self.status()
            assert status.get("health", {}).get("status") == wanted, self.explain(status)
            return True

        eventually(healthy, deadline, f"{self.name} is {wanted}")

    def syncs(self) -> int:
        """How often Argo CD has applied something, up to its ten last times."""
        return max((entry["id"] for entry in self.status().get("history") or ()), default=-1)

    def assert_steady(self, looks: int = 3) -> None:
        """Argo CD looks several times, stays Synced, and applies nothing."""
        before = self.syncs()
        for _ in range(looks):
            status = self.looked()
            assert status["sync"]["status"] == "Synced", self.explain(status)
        assert self.syncs() == before, "Argo CD has applied something again"

    def sync(self) -> None:
        """A sync with prune that a person asks for; return when it has ended."""
        before = self.status().get("operationState", {}).get("startedAt")
        # `argocd app sync` and the web page send the options of the spec along.
        options = self._argocd.get("application", self.name)["spec"]["syncPolicy"].get("syncOptions", [])
        request = {"initiatedBy": {"username": "tests"}, "sync": {"prune": True, "syncOptions": options}}
        self._argocd.patch("application", self.name, {"operation": request})

        def ended() -> bool:
            state = self.status().get("operationState", {})
            assert state.get("startedAt") != before, "not begun"
            assert state.get("phase") == "Succeeded", state
            return True

        eventually(ended, SYNC_SECONDS, f"the sync of {self.name} has ended")

    def children(self) -> set[str]:
        """What is below the Application's own objects in its tree: kind, name and uid."""
        nodes = self._ask("resource-tree").get("nodes") or ()
        return {f"{n['kind']}/{n['name']} {n['uid']}" for n in nodes if n.get("parentRefs")}

    def explain(self, status: Object) -> str:
        """What is wrong with it: for a failed test."""
        operation = status.get("operationState") or {}
        resources = [
            f"{r['kind']}/{r['name']}: {r.get('status')} {(r.get('health') or {}).get('status', '')}"
            for r in status.get("resources") or ()
            if r.get("status") != "Synced"
        ]
        return "; ".join(
            [
                f"{(status.get('sync') or {}).get('status')}/{(status.get('health') or {}).get('status')}",
                f"operation {operation.get('phase')}: {operation.get('message')}",
                *(condition["message"] for condition in status.get("conditions") or ()),
                *resources,
                *self.differences(),
            ]
        )

    def differences(self) -> list[str]:
        """Where an object differs from what Argo CD expects it to be."""
        found = []
        for item in self._ask("managed-resources").get("items") or ():
            live, wanted = (json.loads(item.get(key) or "{}") for key in ("normalizedLiveState", "predictedLiveState"))
            found += [f"{item['kind']}/{item['name']}{line}" for line in _differences("", live, wanted)]
        return found

    def _ask(self, what: str) -> Object:
        url = f"{API}/api/v1/applications/{self.name}/{what}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                found: Object = json.load(answer)
        except OSError:
            return {}  # Argo CD has not looked at it yet
        return found


def _differences(path: str, live: object, wanted: object) -> Iterator[str]:
    if isinstance(live, dict) and isinstance(wanted, dict):
        for key in sorted({*live, *wanted}):
            yield from _differences(f"{path}.{key}", live.get(key), wanted.get(key))
    elif live != wanted:
        yield f"{path}: is {live!r}, Argo CD wants {wanted!r}"


def first_seen(look: Callable[[], str], until: str, deadline: float, what: str) -> list[str]:
    """Every value that `look` has until it is `until`, each once, in order."""
    seen: list[str] = []

    def there() -> bool:
        now = look()
        if not seen or seen[-1] != now:
            seen.append(now)
        return now == until

    eventually(there, deadline, what)
    return seen
