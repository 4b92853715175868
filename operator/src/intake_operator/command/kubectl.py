"""What kubectl and its kubeconfig are used for: the namespace, the token, and a port-forward to the admin API."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from intake_operator.command.problem import Exit, ProblemError

AUDIENCE: Final = "intake-engine.io"
TOKEN_VARIABLE: Final = "INTAKE_ADMIN_TOKEN"
ADMIN_PORT: Final = 8081
# Seconds that kubectl may take: a login plugin may ask its server first.
KUBECTL_TIMEOUT: Final = 30

HOW_TO_GET_A_TOKEN: Final = f"""no token: this kubeconfig has none (a client certificate is not one). Make one:
  kubectl create token ACCOUNT --audience={AUDIENCE} --duration=10m > token
and give it with --token-file token, or in {TOKEN_VARIABLE}. The service account ACCOUNT needs the role view or edit."""

type Config = Mapping[str, Any]


@dataclass(frozen=True)
class Kubectl:
    """kubectl, in one context."""

    context: str | None = None

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        return ["kubectl", *([f"--context={self.context}"] if self.context else []), *arguments]

    @cached_property
    def config(self) -> Config:
        """The part of kubeconfig that this context uses. Raises ProblemError."""
        done = _run(self.command("config", "view", "--minify", "--raw", "-o", "json"))
        if done.returncode != 0:
            raise ProblemError(Exit.FAILED, f"kubectl has no configuration to use: {done.stderr.strip()}")
        config: Config = json.loads(done.stdout)
        return config

    def namespace(self) -> str:
        """The namespace that kubectl would use."""
        contexts = self.config.get("contexts") or [{}]
        return str(contexts[0].get("context", {}).get("namespace") or "default")

    def token(self) -> str | None:
        """The token that kubectl would use; None if it uses something else, such as a client certificate."""
        users = self.config.get("users") or [{}]
        user: Config = users[0].get("user") or {}
        if user.get("tokenFile"):
            return read_token(Path(user["tokenFile"]))
        if user.get("exec"):
            return _plugin_token(user["exec"])
        return user.get("token") or None

    @contextmanager
    def forward(self, namespace: str, workload: str) -> Iterator[str]:
        """The URL of the admin API while the block runs. Raises ProblemError if kubectl cannot forward."""
        command = self.command(f"--namespace={namespace}", "port-forward", workload, f":{ADMIN_PORT}")
        # A file, not a pipe: kubectl keeps writing, and a pipe that nothing reads would fill up and block it.
        with tempfile.TemporaryFile("w+") as errors:
            try:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603 -- kubectl
            except FileNotFoundError as error:
                raise _no_kubectl() from error
            try:
                assert process.stdout is not None
                found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
                if not found:
                    process.wait(KUBECTL_TIMEOUT)
                    errors.seek(0)
                    raise ProblemError(
                        Exit.FAILED,
                        f"`{' '.join(command)}` failed: {errors.read().strip()}\nIt needs the right to create "
                        "pods/portforward there. --operator-namespace and --operator name another operator, --server "
                        "a URL.",
                    )
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()
                process.wait(KUBECTL_TIMEOUT)


def find_token(token_file: Path | None, kubectl: Kubectl) -> str:
    """The caller's bearer token. Raises ProblemError that says how to get one."""
    if token_file is not None:
        return read_token(token_file)
    token = os.environ.get(TOKEN_VARIABLE, "").strip() or kubectl.token()
    if not token:
        raise ProblemError(Exit.DENIED, HOW_TO_GET_A_TOKEN)
    return token


def read_token(path: Path) -> str:
    """The token in a file, `-` for standard input. Raises ProblemError."""
    try:
        token = Path("/dev/stdin" if str(path) == "-" else path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise ProblemError(Exit.DENIED, f"no token can be read from {path}: {error}") from error
    if not token:
        raise ProblemError(Exit.DENIED, f"{path} is empty")
    return token


def _plugin_token(plugin: Config) -> str | None:
    """The token of a login plugin, run as kubectl runs it."""
    version = str(plugin.get("apiVersion") or "client.authentication.k8s.io/v1")
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    variables = {each["name"]: each["value"] for each in plugin.get("env") or ()}
    command = [str(plugin["command"]), *(plugin.get("args") or ())]
    done = _run(command, {"KUBERNETES_EXEC_INFO": json.dumps(info)} | variables)
    if done.returncode != 0:
        raise ProblemError(Exit.DENIED, f"the login plugin {command[0]} of kubeconfig failed: {done.stderr.strip()}")
    try:
        token = (json.loads(done.stdout).get("status") or {}).get("token")
    except (ValueError, AttributeError) as error:
        raise ProblemError(
            Exit.DENIED, f"the login plugin {command[0]} of kubeconfig gave no ExecCredential"
        ) from error
    return str(token) if token else None


def _run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 -- kubectl, or what the user's own kubeconfig names
            command,
            capture_output=True,
            text=True,
            timeout=KUBECTL_TIMEOUT,
            check=False,
            env={**os.environ, **(variables or {})},
        )
    except FileNotFoundError as error:
        if command[0] == "kubectl":
            raise _no_kubectl() from error
        raise ProblemError(Exit.FAILED, f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ProblemError(Exit.FAILED, f"{command[0]} did not end within {KUBECTL_TIMEOUT} s") from error


def _no_kubectl() -> ProblemError:
    return ProblemError(Exit.FAILED, "kubectl is not installed; without it give --server, --token-file and --namespace")
