"""Users of the admin API and of intake-admin: service accounts, each with one role of Kubernetes or none."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.kube import CALL_SECONDS, Kube

COMMAND: Final = Path(sys.executable).with_name("intake-admin")


@dataclass(frozen=True)
class AdminUser:
    """A service account. Its token has the audience of the admin API, so the API server refuses it."""

    kube: Kube
    token: Path

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate this user."""
        return {"Authorization": f"Bearer {self.token.read_text().strip()}"}

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run intake-admin outside the cluster as this user; return the exit code and the output."""
        access = (f"--context={self.kube.context}", f"--namespace={self.kube.namespace}", f"--token-file={self.token}")
        done = subprocess.run(
            [COMMAND, *arguments, *access], capture_output=True, text=True, timeout=CALL_SECONDS, check=False
        )
        return done.returncode, done.stdout + done.stderr


def create_admin_user(kube: Kube, folder: Path, name: str, role: str = "") -> AdminUser:
    """Create the service account and bind it to `role`; write its token into the folder."""
    kube.kubectl("create", "serviceaccount", name)
    if role:
        account = f"--serviceaccount={kube.namespace}:{name}"
        kube.kubectl("create", "rolebinding", name, f"--clusterrole={role}", account)
    token = folder / name
    token.write_text(kube.kubectl("create", "token", name, "--audience=intake-engine.io"))
    return AdminUser(kube, token)


type AdminUsers = dict[str, AdminUser]
"""By name."""
