"""Runs operators as processes of this machine against the API server of the tests' cluster, and measures them."""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from bench.common.cpu import cpu_of_tree, memory
from bench.common.turns import progress
from bench.operator.figures import Figures
from bench.operator.proxy import Proxy, counting, kubeconfig_for
from tests.e2e import events, release, services
from tests.e2e.kube import REPOSITORY, Kube, Object, eventually

FIRST_PORT: Final = 18080
# Seconds of 200 events that are made or deleted, on a busy machine.
MANY_SECONDS: Final = 300.0
CLAIMS_A_SECOND: Final = 20


class OperatorRuns:
    """One namespace, and one operator process at a time that serves it, behind a proxy of its own."""

    def __init__(self, kube: Kube, proxy: Proxy, number: int) -> None:
        self.kube, self.proxy, self._port = kube, proxy, FIRST_PORT + number

    @contextmanager
    def operator(self) -> Iterator[int]:
        """A new operator process; its pid."""
        with tempfile.TemporaryDirectory() as folder:
            config, resolve, log = (Path(folder, name) for name in ("config", "resolv.conf", "log"))
            config.write_text(kubeconfig_for(self.proxy))
            dns = self.kube.within("kube-system").get("service", "kube-dns")["spec"]["clusterIP"]
            resolve.write_text(f"nameserver {dns}\nsearch svc.cluster.local cluster.local\n")
            # DB1's host is a Service: the process gets the cluster's DNS, in a mount namespace of its own.
            script = 'mount --bind "$1" /etc/resolv.conf && exec "$2" -m intake_operator'
            command = ["unshare", "--mount", "sh", "-c", script, "sh", str(resolve), sys.executable]
            with log.open("w") as output:
                environment = _environment(config, self.kube.namespace, self._port)
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                eventually(lambda: _is_ready(process, self._port), 60, "the operator has listed the cluster")
                yield process.pid
            except BaseException:
                progress(log.read_text()[-3000:])
                raise
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def begin(self, pid: int) -> "Measuring":
        """What has been used so far."""
        return Measuring(self.proxy, pid, Counter(self.proxy.requests), cpu_of_tree(pid), time.monotonic())

    def wait(self, count: int) -> None:
        """Make events whose window is a month away, and return when each waits."""
        sale = events.window(30 * 86400, 3600)
        self.kube.apply(*(events.event(f"drop-{number}", sale) for number in range(count)))
        eventually(lambda: self._phases() == {"Waiting": count}, MANY_SECONDS, f"{count} events wait")

    def open(self, name: str) -> None:
        """Make an event that sells now."""
        services.start_ledger(self.kube)
        self.kube.apply(events.event(name, events.window(1, 7200), inventorySize=1_000_000))
        events.await_phase(self.kube, name, "Open", MANY_SECONDS)

    @contextmanager
    def claims(self, name: str) -> Iterator[None]:
        """Buyers claim slots, steadily."""
        secret = self.kube.get("secret", f"{name}-app")["data"]
        address = self.kube.get("service", f"{name}-rw")["spec"]["clusterIP"]
        ended = threading.Event()
        buyers = threading.Thread(target=_claim, args=(address, secret, f"{name}-pool", ended))
        buyers.start()
        try:
            yield
        finally:
            ended.set()
            buyers.join()

    def abandon(self) -> None:
        """Delete all events, and give up the proof of those that have sold."""
        for each in self.kube.items("intakeevents"):
            name = each["metadata"]["name"]
            if each.get("status", {}).get("phase") != "Waiting":
                self.kube.kubectl("annotate", "intakeevent", name, f"{events.ABANDON_ANNOTATION}={name}", "--overwrite")
        self.kube.kubectl("delete", "intakeevents", "--all", "--wait=false")
        eventually(lambda: not self.kube.items("intakeevents"), MANY_SECONDS, "all events are gone")

    def settle(self) -> None:
        """Return when nothing was asked for some seconds but what is asked again and again."""
        quiet, before = 0, self.proxy.requests.total()
        for _ in range(60):
            time.sleep(5)
            now = self.proxy.requests.total()
            quiet = quiet + 1 if now - before <= 5 else 0
            before = now
            if quiet == 2:
                return

    def _phases(self) -> Counter[str]:
        return Counter(e.get("status", {}).get("phase", "") for e in self.kube.items("intakeevents"))


@dataclass(frozen=True)
class Measuring:
    """A measurement that has begun."""

    proxy: Proxy
    pid: int
    requests: Counter[str]
    cpu: float
    began: float

    def end(self, part: str, count: int) -> Figures:
        """What the operator has cost since."""
        took, found = time.monotonic() - self.began, Counter(self.proxy.requests)
        found.subtract(self.requests)
        requests = {name: number for name, number in found.items() if number}
        used, rss, most = cpu_of_tree(self.pid) - self.cpu, memory(self.pid, "VmRSS"), memory(self.pid, "VmHWM")
        figures = Figures(part, count, took, requests, used, rss, most)
        progress(f"{part}, {count} events: {figures.each_a_minute:.2f} requests a minute each, {rss:.0f} MiB")
        return figures


def connect() -> Kube:
    """The tests' cluster, without any other operator."""
    kube = Kube.connect()
    if release.is_installed(kube):
        raise SystemExit("an operator is installed in this cluster: it would do half of the work. Uninstall it first")
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "crds"))
    return kube


@contextmanager
def namespace(kube: Kube, name: str, number: int) -> Iterator[OperatorRuns]:
    """A namespace for one operator."""
    config: dict[str, Any] = json.loads(kube.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    within = kube.create_namespace(f"intake-bench-{name}")
    try:
        with counting(config) as proxy:
            yield OperatorRuns(within, proxy, number)
    finally:
        kube.delete("namespace", within.namespace)


def _environment(config: Path, served: str, port: int) -> dict[str, str]:
    ours = {"KUBECONFIG": str(config), "INTAKE_SQL_DIR": str(REPOSITORY / "sql"), "INTAKE_NAMESPACES": served}
    ours |= {"INTAKE_HTTP_PORT": str(port), "INTAKE_ADMIN_PORT": "0", "INTAKE_CLUSTER_DOMAIN": "cluster.local"}
    return os.environ | ours


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError("the operator has ended")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _claim(address: str, secret: Object, pool: str, ended: threading.Event) -> None:
    password = base64.b64decode(secret["password"]).decode()
    user = base64.b64decode(secret["user"]).decode()
    database = base64.b64decode(secret["dbname"]).decode()
    with psycopg.connect(host=address, user=user, password=password, dbname=database, autocommit=True) as buyers:
        number = 0
        while not ended.wait(1 / CLAIMS_A_SECOND):
            number += 1
            request = f"bench-{number}"
            buyers.execute("SELECT outcome FROM intake.claim_resource(%s, %s, %s)", (pool, request, request))
