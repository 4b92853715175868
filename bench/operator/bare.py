"""A real API server with its etcd, and nothing else: no controller, no kubelet. Events that wait need no more."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.kube import REPOSITORY, CommandError, Kube, eventually

PORT: Final = 16443
_ETCD: Final = 12379
_TOKEN: Final = "bench"


@contextmanager
def bare_api_server() -> Iterator[Kube]:
    """Start both, with the program that tests/cluster has built; everything ends with the block."""
    before = os.environ.get("KUBECONFIG"), os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as kube:
        try:
            yield kube
        finally:
            os.environ["PATH"] = before[1]
            if before[0] is None:
                os.environ.pop("KUBECONFIG", None)
            else:
                os.environ["KUBECONFIG"] = before[0]


@contextmanager
def _running(folder: Path) -> Iterator[Kube]:
    node, key, config = _programs() / "node", folder / "sa.key", folder / "config"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (folder / "tokens").write_text(f"{_TOKEN},bench,bench,system:masters\n")
    cluster = {"server": f"https://127.0.0.1:{PORT}", "insecure-skip-tls-verify": True}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "intake-bench",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "contexts": [{"name": "intake-bench", "context": {"cluster": "bench", "user": "bench"}}],
        "users": [{"name": "bench", "user": {"token": _TOKEN}}],
    }
    config.write_text(json.dumps(content))
    os.environ["KUBECONFIG"] = str(config)
    os.environ["PATH"] = f"{node.parent}:{os.environ['PATH']}"
    etcd = f"http://127.0.0.1:{_ETCD}"
    peers = f"http://127.0.0.1:{_ETCD + 1}"
    commands: tuple[list[str], ...] = (
        [
            *(f"{node}", "etcd", "--data-dir", f"{folder / 'etcd'}", "--listen-client-urls", etcd),
            *(
                "--advertise-client-urls",
                etcd,
                "--listen-peer-urls",
                peers,
                "--unsafe-no-fsync",
                "--log-level",
                "error",
            ),
        ],
        [
            *(f"{node}", "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1"),
            *(f"--secure-port={PORT}", f"--cert-dir={folder}", f"--token-auth-file={folder / 'tokens'}"),
            *("--authorization-mode=AlwaysAllow", f"--service-account-key-file={key}"),
            *(f"--service-account-signing-key-file={key}", "--service-account-issuer=https://bench"),
            "--service-cluster-ip-range=10.97.0.0/16",
        ],
    )
    with (folder / "log").open("w") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        kube = Kube("intake-bench")

        def is_ready() -> bool:
            assert all(process.poll() is None for process in processes), (folder / "log").read_text()[-2000:]
            return kube.kubectl("get", "--raw", "/readyz") == "ok"

        try:
            eventually(is_ready, 60, "the API server is ready")
            yield kube
        finally:
            for process in reversed(processes):
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _programs() -> Path:
    """The folder with the node's program and kubectl, as tests/cluster/lib/programs.sh names it."""
    cluster = REPOSITORY / "tests" / "cluster"
    script = f"here={cluster}; cache=${{CACHE:-$HOME/.cache/intake-engine}}; . {cluster}/lib/versions.sh; "
    script += f'. {cluster}/lib/programs.sh; echo "$bin"'
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False).stdout.strip()
    if not Path(found, "node").is_file():
        raise CommandError(f"there is no {found}/node: `INTAKE_CLUSTER_KIND=node make cluster` builds it")
    return Path(found)
