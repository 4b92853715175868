"""The former version: what the present operator has to drive, and where its files are.

Take another commit when a version is released. Only its history is needed, no network: a clone that was made with
--depth does not have it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
COMMIT: Final = "5be0a8450a1c3bec0388195079fe201e4be60d45"
# Of its images.
TAG: Final = COMMIT[:12]


def unpack(folder: Path) -> Path:
    """Put its files into a folder, unless they are there, and return the folder."""
    if folder.exists():
        return folder
    found = subprocess.run(["git", "archive", "--format=tar", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        raise RuntimeError(
            f"this clone does not have commit {COMMIT}, the former version: git fetch --unshallow. "
            f"git says: {found.stderr.decode().strip()}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    subprocess.run(["tar", "-x", "-C", str(made)], input=found.stdout, check=True)
    made.chmod(0o755)
    try:
        made.rename(folder)
    except OSError:
        shutil.rmtree(made)
        if not folder.exists():  # otherwise another run was quicker
            raise
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{unpack(Path(sys.argv[1]) / TAG)} {TAG}\n")
