"""A crowd of buyers: examples/demo/crowd.py in a pod, and the record of the answers that they got."""

import json
from dataclasses import dataclass

from tests.e2e.kube import POD_SECONDS, Kube, Object, eventually
from tests.patience import SLOWER


@dataclass(frozen=True)
class Plan:
    """How many buyers come, how many a second (0: at once), for how many seconds each tries, and seats each wants."""

    buyers: int
    rate: float = 0.0
    connections: int = 8
    patience: float = 90.0
    prefix: str = "buyer"
    twice_percent: float = 5.0
    hang_up_percent: float = 2.0
    most_seats: int = 1


def start(kube: Kube, event: str, pool: str, plan: Plan, pod: str = "crowd") -> None:
    """Run examples/demo/crowd.py in a pod that has the Secret of the event's claimers, and no other credentials."""
    secret = f"{event}-app"
    # The kubelet backs off when a pod mounts a Secret that does not exist yet.
    eventually(lambda: kube.find("secret", secret), POD_SECONDS, f"Secret {secret}")
    kube.config_map("crowd", "examples/demo/crowd.py")
    arguments = {
        "pool": pool,
        "buyers": plan.buyers,
        "rate": plan.rate,
        "connections": plan.connections,
        "patience-seconds": SLOWER * plan.patience,
        "prefix": plan.prefix,
        "twice-percent": plan.twice_percent,
        "hang-up-percent": plan.hang_up_percent,
        "most-seats": plan.most_seats,
    }
    kube.apply(_pod(pod, secret, [f"--{name}={value}" for name, value in arguments.items()]))


def answers(kube: Kube, deadline: float, pod: str = "crowd") -> list[Object]:
    """Wait until the crowd has finished; return every answer that it got."""

    def finished() -> bool:
        phase = kube.get("pod", pod)["status"]["phase"]
        if phase == "Failed":
            raise RuntimeError(f"the crowd failed: {kube.kubectl('logs', pod, '--tail=20')}")
        return bool(phase == "Succeeded")

    eventually(finished, deadline, f"the crowd of pod {pod} has finished")
    lines = [json.loads(line) for line in kube.kubectl("logs", pod).splitlines()]
    assert lines, f"the log of pod {pod} is gone"
    *found, last = lines
    summary = last["summary"]
    assert summary["lines"] == len(found), f"the record is not complete: {len(found)} lines of {summary['lines']}"
    assert summary["contradictions"] == 0, f"a repeated request got another answer than the first: {summary}"
    return found


def _pod(name: str, secret: str, arguments: list[str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "crowd"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "crowd",
                    "image": "intake-engine/bridge:dev",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "/app/crowd.py", *arguments],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "app", "mountPath": "/app", "readOnly": True},
                        {"name": "uri", "mountPath": "/run/secrets/intake", "readOnly": True},
                    ],
                }
            ],
            "volumes": [
                {"name": "app", "configMap": {"name": "crowd"}},
                {"name": "uri", "secret": {"secretName": secret, "defaultMode": 0o440}},
            ],
        },
    }
