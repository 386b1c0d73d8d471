"""requirements.lock.txt pins what the requirements files ask for, and everything that these packages need."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ARM = {"platform_machine": "aarch64", "sys_platform": "linux", "platform_system": "Linux"}
INTEL = ARM | {"platform_machine": "x86_64"}


def requirements_of(name):
    """The requirements of a file and of those that it includes."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    stripped = [line.split("#")[0].strip() for line in lines]
    included = [each for line in stripped if line.startswith("-r ") for each in requirements_of(line[3:].strip())]
    return included + [Requirement(line) for line in stripped if line and not line.startswith("-")]


def locked(environment=None, text=None):
    """Package -> version in the lock for an environment (markers as in PEP 508)."""
    text = (ROOT / "requirements.lock.txt").read_text(encoding="utf-8") if text is None else text
    pinned = [Requirement(line.removesuffix(" \\")) for line in text.splitlines() if re.match(r"\w", line)]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==") for requirement in pinned
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


@pytest.mark.parametrize("environment", [INTEL, ARM], ids=["x86_64", "aarch64"])
def test_every_requirement_is_locked_with_its_version(environment):
    versions = locked(environment)
    wanted = [each for each in requirements_of("requirements-dev.txt")
              if each.marker is None or each.marker.evaluate(environment)]
    assert [str(each) for each in wanted if versions.get(canonicalize_name(each.name)) not in each.specifier] == []


def test_every_package_has_hashes():
    packages = re.findall(r"^\w.*\n(?:[ ].*\n)*", (ROOT / "requirements.lock.txt").read_text("utf-8"), re.MULTILINE)
    assert [package for package in packages if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", package)] == []


def test_64_bit_arm_gets_no_packages_of_nvidia():
    assert [name for name in locked(ARM) if name.startswith(("nvidia", "cuda", "triton"))] == []
    assert any(name.startswith("nvidia") for name in locked(INTEL))


def test_the_lock_is_closed():
    """What an installed and locked package needs is locked as well."""
    versions = locked()
    missing = set()
    for name, version in versions.items():
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if distribution.version.split("+")[0] != version:
            continue
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                if versions.get(canonicalize_name(needed.name), "none") not in needed.specifier:
                    missing.add(f"{name} needs {needed}")
    assert missing == set()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-demo.txt", "requirements-dev.txt"])
def test_the_part_of_a_requirements_file_has_all_that_it_needs(name):
    part = subprocess.run(
        ["bash", "-c", f"source ./environment.sh; locked_requirements {sys.executable} {name}"], cwd=ROOT,
        capture_output=True, text=True, check=True,
    ).stdout
    versions = locked(INTEL, part)
    assert {canonicalize_name(each.name) for each in requirements_of(name)} <= versions.keys()
    assert set(versions.items()) <= set(locked(INTEL).items())
    assert ("ruff" in versions) == (name == "requirements-dev.txt")
    assert ("uvicorn" in versions) == (name != "requirements.txt")
