"""A real Argo CD as processes of this machine, in the network of the tests' own node: no pods, no images, no login.

Redis, repo-server, API server and application controller listen on that network's loopback address alone. They end with
the program that started them, however it ends.
"""

import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.kube import REPOSITORY, Kube, eventually

NAMESPACE: Final = "argocd"
HERE: Final = Path(__file__).parent
HEALTH_CHECK: Final = REPOSITORY / "docs/argocd/argocd-cm.yaml"
START_SECONDS: Final = 60.0

# Like Argo CD's own installation: a look at Git every two to three minutes, and what a branch was is remembered for
# three minutes. A refresh, which is also what a webhook asks for, looks at once.
API: Final = "http://127.0.0.1:8080"
CONTROLLER: Final = "http://127.0.0.1:8082"
REDIS: Final = ("redis-server", "--bind", "127.0.0.1", "--port", "6379", "--save", "", "--appendonly", "no")
REPO_SERVER: Final = (
    *("argocd-repo-server", "--address", "127.0.0.1", "--metrics-address", "127.0.0.1"),
    *("--disable-tls", "--redis", "127.0.0.1:6379"),
)
_CLIENTS: Final = ("--redis", "127.0.0.1:6379", "--repo-server", "127.0.0.1:8081", "--repo-server-plaintext")
SERVER: Final = (
    *("argocd-server", "--namespace", NAMESPACE, "--address", "127.0.0.1", "--metrics-address", "127.0.0.1"),
    *("--insecure", "--disable-auth", "--dex-server", "http://127.0.0.1:1", *_CLIENTS),
)
APPLICATION_CONTROLLER: Final = ("argocd-application-controller", "--namespace", NAMESPACE, *_CLIENTS)


@dataclass(frozen=True)
class Programs:
    """Where `build` has put Argo CD."""

    folder: Path
    redis: Path

    @staticmethod
    def found() -> "Programs":
        """Those of versions.sh, in the cache."""
        root = Path(os.environ.get("INTAKE_CACHE") or Path.home() / ".cache/intake-engine")
        lines = (HERE / "versions.sh").read_text(encoding="utf-8").splitlines()
        (version,) = (line.split()[0].partition("=")[2] for line in lines if line.startswith("argocd_version="))
        folder = root / "argocd" / version
        if not (folder / ".complete").exists():
            raise SystemExit("Argo CD is not built: run the tests with `make e2e-argocd`")
        return Programs(folder, root / "argocd/redis")

    def environment(self, state: Path) -> dict[str, str]:
        """What the processes need to keep to their own folder."""
        libraries = ":".join(map(str, self.redis.glob("usr/lib/*-linux-gnu")))
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}:{self.redis / 'usr/bin'}"
        application = state / "app"
        for name in ("tls", "ssh", "gpg", "plugins", "server", "reposerver"):
            (application / name).mkdir(parents=True, exist_ok=True)
        (application / "ssh/ssh_known_hosts").touch()
        (state / "tmp").mkdir()
        return {
            **os.environ,
            "PATH": path,
            "HOME": str(state),
            "TMPDIR": str(state / "tmp"),
            "HOSTNAME": "argocd-1",
            "LD_LIBRARY_PATH": libraries,
            "REDIS_PASSWORD": "",
            # It is no pod, and still calls the cluster of its kubeconfig `in-cluster`.
            "ARGOCD_FAKE_IN_CLUSTER": "true",
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_GNUPGHOME": str(application / "gpg"),
            "ARGOCD_APP_CONF_PATH": str(application),
            "ARGOCD_TLS_DATA_PATH": str(application / "tls"),
            "ARGOCD_SSH_DATA_PATH": str(application / "ssh"),
            "ARGOCD_PLUGINSOCKFILEPATH": str(application / "plugins"),
            "ARGOCD_ASK_PASS_SOCK": str(state / "tmp/ask-pass.sock"),
        }


@contextmanager
def running(kube: Kube, state: Path) -> Iterator[None]:
    """Argo CD with the health check of docs/argocd; its kinds and its namespace go with it."""
    programs = Programs.found()
    argocd = kube.within(NAMESPACE)
    with ExitStack() as at_the_end:
        at_the_end.callback(_remove, kube, programs)
        _install(argocd, programs)
        environment = programs.environment(state)
        for command in (REDIS, REPO_SERVER, SERVER, APPLICATION_CONTROLLER):
            at_the_end.enter_context(_process(command, environment, state))
        for url in (f"{API}/healthz", f"{CONTROLLER}/healthz"):
            eventually(lambda url=url: _answers(url), START_SECONDS, f"Argo CD answers at {url}")  # type: ignore[misc]
        yield


def _install(argocd: Kube, programs: Programs) -> None:
    argocd.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(programs.folder / "crds"))
    kinds = "applications.argoproj.io,appprojects.argoproj.io"
    eventually(lambda: argocd.kubectl("get", kinds) is not None, START_SECONDS, "Argo CD's kinds are served")
    argocd.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    argocd.kubectl("apply", "-f", str(programs.folder / "config"), "-f", str(HERE / "settings.yaml"))
    # The command of docs/gitops.md.
    argocd.kubectl("patch", "configmap", "argocd-cm", "--patch-file", str(HEALTH_CHECK))


def _remove(kube: Kube, programs: Programs) -> None:
    # The kinds last: an Application that is left keeps a finalizer that nobody takes off any more.
    for name in kube.within(NAMESPACE).kubectl("get", "applications.argoproj.io", "-o", "name").split():
        kube.within(NAMESPACE).kubectl("patch", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false", "--ignore-not-found")
    kube.kubectl("delete", "--wait=false", "--ignore-not-found", "-f", str(programs.folder / "crds"))


@contextmanager
def _process(command: tuple[str, ...], environment: dict[str, str], state: Path) -> Iterator[None]:
    with (state / f"{command[0]}.log").open("w") as log:
        # The kernel ends it with this program, also where that is killed. An interrupt from the terminal goes past it:
        # Argo CD is needed until everything is taken away.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=environment,
            cwd=state,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
