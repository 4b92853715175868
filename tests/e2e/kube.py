"""kubectl and helm from Python, for the end-to-end tests and the demo: JSON in, JSON out.

Every call names its context and has a time limit. `connect` decides which context may be used.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.patience import SLOWER

REPOSITORY = Path(__file__).resolve().parents[2]

# The interval of `eventually`. One kubectl process takes 0.1 s of one core.
POLL_SECONDS = 0.25
# The time limit of a kubectl call.
CALL_SECONDS = SLOWER * 60.0
# A pod starts within three seconds on an idle node; this is for a loaded one.
POD_SECONDS = 90.0

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}

type Object = dict[str, Any]
"""A Kubernetes object, or a part of one."""


class CommandError(Exception):
    """A command that failed; the message has its output."""


@dataclass(frozen=True)
class Kube:
    """kubectl and helm for one cluster and one namespace."""

    context: str
    namespace: str = "default"

    @staticmethod
    def connect() -> "Kube":
        """Use the context named by INTAKE_CONTEXT, or the current one if it is the tests' own cluster."""
        named = os.environ.get("INTAKE_CONTEXT", "")
        context = named or run("kubectl", "config", "current-context").strip()
        ours = os.environ.get("INTAKE_CLUSTER_KIND") in {"node", "kind"} or context.startswith(
            ("intake-", "kind-intake-")
        )
        if not named and not ours:
            raise SystemExit(
                f"refusing the Kubernetes context {context!r}: it is not the cluster of the tests. Start that one with "
                "`make cluster`, or name the context to use in INTAKE_CONTEXT."
            )
        return Kube(context)

    def within(self, namespace: str) -> "Kube":
        """The same cluster, another namespace."""
        return Kube(self.context, namespace)

    def create_namespace(self, name: str) -> "Kube":
        """Create a namespace that enforces Pod Security `restricted`."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
        return self.within(name)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = CALL_SECONDS) -> str:
        """Run kubectl and return its output. Raises CommandError."""
        command = ["kubectl", "--context", self.context, "--namespace", self.namespace, *arguments]
        return run(*command, stdin=stdin, timeout=timeout)

    def helm(self, *arguments: str, timeout: float = SLOWER * 180.0) -> str:
        """Run helm and return its output. Raises CommandError."""
        return run("helm", "--kube-context", self.context, "--namespace", self.namespace, *arguments, timeout=timeout)

    def apply(self, *manifests: Object) -> None:
        """`kubectl apply` of objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.kubectl("apply", "-f", "-", stdin=text)

    def apply_file(self, path: str) -> None:
        """`kubectl apply` of a file; the path starts at the root of the repository."""
        self.kubectl("apply", "-f", str(REPOSITORY / path))

    def config_map(self, name: str, path: str) -> None:
        """Create or update a ConfigMap from a file or a folder of the repository."""
        source = f"--from-file={REPOSITORY / path}"
        manifest = json.loads(self.kubectl("create", "configmap", name, source, "--dry-run=client", "-o", "json"))
        self.apply(manifest)

    def find(self, kind: str, name: str) -> Object | None:
        """An object, or None if it does not exist."""
        text = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        found: Object | None = json.loads(text) if text else None
        return found

    def get(self, kind: str, name: str) -> Object:
        """An object that must exist."""
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def items(self, kinds: str, selector: str = "") -> list[Object]:
        """All objects of one or several kinds (comma-separated) in the namespace."""
        arguments = ["get", kinds, "-o", "json", *([f"--selector={selector}"] if selector else [])]
        found: list[Object] = json.loads(self.kubectl(*arguments))["items"]
        return found

    @contextmanager
    def watch(self, kind: str, name: str, jsonpath: str) -> Iterator[list[str]]:
        """Collect every value that a field of an object has inside the block; the list is filled at its end."""
        seen: list[str] = []
        output = ["-o", f'jsonpath={jsonpath}{{"\\n"}}']
        command = [
            "kubectl",
            "--context",
            self.context,
            "--namespace",
            self.namespace,
            "get",
            kind,
            name,
            "-w",
            *output,
        ]
        with tempfile.TemporaryFile("w+") as lines:
            process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT)
            try:
                yield seen
            finally:
                process.terminate()
                process.wait(CALL_SECONDS)
                lines.seek(0)
                seen += lines.read().splitlines()

    def patch(self, kind: str, name: str, patch: Object) -> None:
        """A merge patch."""
        self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(patch))

    def delete(self, kind: str, name: str, *flags: str) -> None:
        """Request a deletion; do not wait for its end."""
        self.kubectl("delete", kind, name, "--wait=false", *flags)

    def execute(self, pod: str, *command: str, stdin: str | None = None) -> str:
        """Run a command in a pod's first container, without a shell."""
        flags = ["--stdin"] if stdin is not None else []
        return self.kubectl("exec", *flags, pod, "--quiet", "--", *command, stdin=stdin)

    def psql(self, pod: str, database: str, script: str) -> str:
        """Run SQL in a pod that runs Postgres, as its superuser; fields separated by `|`, no headers."""
        psql = ("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database)
        return self.execute(pod, *psql, "-f", "-", stdin=script).strip()


def run(*command: str, stdin: str | None = None, timeout: float = CALL_SECONDS) -> str:
    """Run a command and return its output. Raises CommandError on a failure or after `timeout` seconds."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)}: not finished after {timeout:.0f} s") from error
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def await_rollout(kube: Kube, *workloads: str) -> None:
    """Return when each workload (`kind/name`) runs as its manifest says."""
    for workload in workloads:
        seconds = SLOWER * POD_SECONDS
        kube.kubectl("rollout", "status", workload, f"--timeout={seconds:.0f}s", timeout=seconds + 10)


def eventually[Result](look: Callable[[], Result], deadline: float, what: str) -> Result:
    """Call `look` until its result is true, and return that result.

    `deadline` is in seconds of a healthy machine; the wait fails after SLOWER times as many. A look that raises
    AssertionError or CommandError counts as false: an `assert` in it says what was missing.
    """
    deadline *= SLOWER
    end = time.monotonic() + deadline
    while True:
        last: object
        try:
            result = look()
        except (AssertionError, CommandError) as error:
            last = error
        else:
            if result:
                return result
            last = result
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}; last result: {last}")
        time.sleep(POLL_SECONDS)


def condition(obj: Object, kind: str) -> Object:
    """One condition of an object; an empty one if it has not been written yet."""
    found: list[Object] = [c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {"type": kind, "status": "", "reason": "", "message": ""}
