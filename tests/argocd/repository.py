"""A Git repository for one Application: Argo CD reads the bare one through file://, the tests commit to the other."""

import json
import shutil
from pathlib import Path
from typing import Final

from tests.e2e.kube import Object, run

# Nothing of the configuration of the machine, which may sign commits or run hooks.
GIT: Final = (
    *("env", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "git"),
    *("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "init.defaultBranch=main"),
)


class Repository:
    """What an Application is synced from: made, or found where it was made before."""

    def __init__(self, folder: Path) -> None:
        self._bare, self._work = folder / "bare.git", folder / "work"
        if not folder.exists():
            run(*GIT, "init", "--quiet", "--bare", str(self._bare))
            run(*GIT, "clone", "--quiet", str(self._bare), str(self._work))

    @property
    def url(self) -> str:
        """Where Argo CD reads it."""
        return f"file://{self._bare}"

    def write(self, name: str, *objects: Object) -> None:
        """Put objects into a file; without objects the file goes."""
        file = self._work / name
        if not objects:
            file.unlink()
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n---\n".join(json.dumps(each, indent=2) for each in objects) + "\n", encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        """Put a file as it is."""
        (self._work / name).write_text(text, encoding="utf-8")

    def copy(self, source: Path, name: str) -> None:
        """Put a folder, with its links as links."""
        shutil.copytree(source, self._work / name, symlinks=True)

    def push(self) -> str:
        """Commit and push everything; return the commit."""
        run(*GIT, "-C", str(self._work), "add", "--all")
        run(*GIT, "-C", str(self._work), "commit", "--quiet", "--message", "a change")
        run(*GIT, "-C", str(self._work), "push", "--quiet", "origin", "HEAD:main")
        return run(*GIT, "-C", str(self._work), "rev-parse", "HEAD").strip()
