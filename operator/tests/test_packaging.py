"""`operator` is also a module of Python's standard library: our folder must never become a package of that name."""

import operator
import re
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_operator_is_the_standard_library_s() -> None:
    assert operator.__file__ is not None
    assert Path(operator.__file__).is_relative_to(sysconfig.get_paths()["stdlib"])


def test_no_package_or_module_takes_its_name() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    sources = (ROOT / folder for folder in ("operator", "bridge", "shared", "tests", "examples", "bench"))
    assert [path for folder in sources for path in folder.rglob("operator.py")] == []


def test_what_builds_the_packages_is_of_one_version() -> None:
    for project in ("operator", "bridge", "shared"):
        content = tomllib.loads((ROOT / project / "pyproject.toml").read_text(encoding="utf-8"))
        # uv.lock has what is installed, not what builds it: an image made tomorrow would be made by another one.
        assert all("==" in requirement for requirement in content["build-system"]["requires"]), project


def test_images_and_machines_are_made_with_one_uv() -> None:
    places = ("Dockerfile.operator", "Dockerfile.bridge", "tests/cluster/python")
    found = [re.findall(r"(?:ARG UV=|uv==)(\d[\d.]*)", (ROOT / place).read_text(encoding="utf-8")) for place in places]
    assert found == [found[0]] * 3
    assert len(found[0]) == 1
