"""Optional programs: found on PATH, or in the cache, where `bench/claims/setup` puts them."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

_CACHE: Final = Path(os.environ.get("CACHE") or Path.home() / ".cache" / "intake-engine") / "bench"


def find(program: str) -> Path | None:
    """Its path, or None if it is not on this machine."""
    unpacked = [str(_CACHE / folder) for folder in ("usr/bin", "usr/sbin")]
    # First what setup has built, because the machine's own is too old. pgbouncer is in sbin, which PATH may not have.
    places = [str(_CACHE / "usr/local/bin"), os.environ.get("PATH", ""), "/usr/sbin", *unpacked]
    found = shutil.which(program, path=os.pathsep.join(places))
    return Path(found) if found else None


def environment() -> dict[str, str]:
    """The environment in which a program of the cache finds its libraries."""
    libraries = [str(path) for path in (_CACHE / "usr/lib").glob("*-linux-*")]
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def version(program: Path) -> tuple[int, ...]:
    """(1, 18, 0) of `PgBouncer 1.18.0` or `Redis server v=7.0.15`."""
    output = subprocess.run(
        [program, "--version"], env=environment(), capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output)
    assert found is not None, output
    return tuple(int(part) for part in found.groups("0"))
