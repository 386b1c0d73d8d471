"""What holds the repository together: pins, configurations, licence, and which file may import which."""

import ast
import dataclasses
import os
import re
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml

from modules.config import Config, load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PACKAGES = ("data", "models", "modules")
GENERATED = {".git", ".venv", "results", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"}
PREPARED = {"iu_xray", "mimic_cxr", "chest_imagenome"}


@cache
def tracked_files() -> list[Path]:
    """Every text file that belongs to the project: no generated folder, no prepared data set."""
    found = []
    for folder, names, files in os.walk(ROOT):
        inside_data = Path(folder) == ROOT / "data"
        names[:] = [
            name for name in names
            if name not in GENERATED and not (inside_data and (name in PREPARED or name.startswith("phantom")))
        ]
        found += [Path(folder) / file for file in files if not file.endswith((".png", ".jpg", ".pyc"))]
    return sorted(found)


def python_files(*folders: str) -> list[Path]:
    """The Python files of the given top folders."""
    return [file for file in tracked_files() if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in folders]


def imported_names(file: Path) -> set[str]:
    """Dotted names that `file` imports anywhere; `from a import b` gives a and a.b, since b may be a module."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: import {node.module} from the root, so that the direction shows"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def pins(lines: list[str]) -> set[str]:
    """Requirement lines without comments, blanks and includes, with spaces normalised."""
    stripped = (" ".join(line.split("#")[0].split()) for line in lines)
    return {line for line in stripped if line and not line.startswith("-")}


# Packaging


def test_conda_environment_and_requirements_pin_the_same_packages():
    environment = yaml.safe_load((ROOT / "env.yml").read_text(encoding="utf-8"))
    by_pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    requirements = pins((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert pins(by_pip) == requirements
    assert "python=3.11" in environment["dependencies"]
    assert all(re.match(r"[\w-]+==[\d.]+(; platform_machine [!=]= \"aarch64\")?$", pin) for pin in requirements)


@pytest.mark.parametrize("extra", ["bench", "demo", "dev"])
def test_extra_requirements_build_on_the_program_ones(extra):
    lines = (ROOT / f"requirements-{extra}.txt").read_text(encoding="utf-8").splitlines()
    assert "-r requirements.txt" in lines
    assert all("==" in pin for pin in pins(lines))


def test_extras_build_on_the_program_ones_and_agree():
    files = (ROOT / f"requirements-{name}.txt" for name in ("bench", "metrics"))
    extras = [file.read_text(encoding="utf-8").splitlines() for file in files]
    assert all("-r requirements.txt" in lines and all("==" in pin for pin in pins(lines)) for lines in extras)
    versions = [dict(pin.split("==") for pin in pins(lines)) for lines in extras]
    assert versions[0]["transformers"] == versions[1]["transformers"]


def test_project_metadata_reads_the_requirements_and_names_the_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert citation["license"] == "Apache-2.0"
    assert (paper["doi"], paper["start"], paper["year"]) == ("10.1016/j.compmedimag.2025.102644", "102644", 2025)
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Zhu", "Bhalerao", "He"]


# Configurations


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    """A nested dictionary as dotted keys."""
    flat = {}
    for key, value in values.items():
        flat.update(leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def test_the_four_experiments_are_there():
    assert [config.stem for config in CONFIGS] == ["chest_imagenome", "demo", "iu_xray", "mimic_cxr"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_parses_and_holds_only_what_differs_from_the_defaults(path):
    assert load_config(path).name == path.stem
    defaults = leaves(dataclasses.asdict(Config()))
    for key, value in leaves(yaml.safe_load(path.read_text(encoding="utf-8"))).items():
        assert value != defaults[key], f"{path.name}: {key} has the default value {value}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_header_says_command_time_and_score(path):
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    script = re.search(r"^# Command: +bash (\w+\.sh)$", header, re.MULTILINE).group(1)
    assert (ROOT / script).is_file()
    assert re.search(r"^# Time: +\S", header, re.MULTILINE)
    assert re.search(r"^# Score: +\S", header, re.MULTILINE)


# Import direction


@pytest.mark.parametrize("file", python_files("models"), ids=lambda file: str(file.relative_to(ROOT)))
def test_models_import_torch_and_models_only(file):
    allowed = {"torch", "torchvision", "models"} | sys.stdlib_module_names
    assert {name.split(".")[0] for name in imported_names(file)} <= allowed


@pytest.mark.parametrize("file", python_files("data"), ids=lambda file: str(file.relative_to(ROOT)))
def test_data_never_import_models_modules_or_entry_points(file):
    roots = {name.split(".")[0] for name in imported_names(file)}
    assert not roots & {"models", "modules", "main_train", "main_test"}


@pytest.mark.parametrize("file", python_files("modules"), ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_never_import_entry_points(file):
    assert not {name for name in imported_names(file) if name.startswith(("main_", "tests", "benchmarks"))}


def imports_of(file: Path) -> set[str]:
    """`imported_names` of a file that are modules of this project."""
    return {name for name in imported_names(file) if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("file", python_files("data"), ids=lambda file: str(file.relative_to(ROOT)))
def test_text_images_and_sources_build_on_each_other_in_one_direction(file):
    room = file.relative_to(ROOT / "data").parts[0]
    forbidden = {"text": ("data.images", "data.sources"), "images": ("data.sources",)}.get(room, ())
    assert not {name for name in imports_of(file) if name.startswith(forbidden)} if forbidden else True


@pytest.mark.parametrize("file", python_files("modules"), ids=lambda file: str(file.relative_to(ROOT)))
def test_training_evaluation_and_inference_build_on_each_other_in_one_direction(file):
    room = file.relative_to(ROOT / "modules").parts[0]
    forbidden = {
        "training": ("modules.evaluation", "modules.inference"),
        "evaluation": ("modules.training", "modules.inference"),
    }.get(room)
    if forbidden is not None:
        # The one type that evaluation takes from training: what a validation is asked for and raises.
        names = {name for name in imports_of(file) if not name.startswith("modules.training.validation")}
        assert not {name for name in names - {"modules.training"} if name.startswith(forbidden)}


def test_torchvision_is_imported_by_at_most_two_model_files():
    roots = [{name.split(".")[0] for name in imported_names(file)} for file in python_files("models")]
    assert sum("torchvision" in names for names in roots) <= 2


# Dead files


def entry_points() -> list[Path]:
    """What a user starts or imports: main_*.py, the modules that `python -m` runs, the predictor, every benchmark."""
    commands = [file for file in python_files(*PACKAGES) if '__name__ == "__main__"' in file.read_text("utf-8")]
    benchmarks = python_files("benchmarks")
    return sorted(ROOT.glob("main_*.py")) + commands + [ROOT / "modules" / "predictor.py"] + benchmarks


def test_every_module_is_reachable_from_an_entry_point():
    modules = {}
    for file in python_files(*PACKAGES):
        parts = file.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    reached, waiting = set(), entry_points()
    while waiting:
        file = waiting.pop()
        if file in reached:
            continue
        reached.add(file)
        for name in imported_names(file):
            # Importing a.b.c also runs the packages a and a.b.
            parts = name.split(".")
            waiting += [modules[prefix] for i in range(len(parts)) if (prefix := ".".join(parts[: i + 1])) in modules]
    dead = [str(file.relative_to(ROOT)) for file in modules.values() if file not in reached]
    assert dead == []


def test_every_data_file_and_configuration_is_named_by_code_or_a_script():
    sources = python_files(*PACKAGES) + [file for file in tracked_files() if file.suffix == ".sh"] + entry_points()
    text = "\n".join(file.read_text(encoding="utf-8") for file in sources)
    named = [file for file in (ROOT / "files").iterdir() if file.name != "README.md"]
    assert [file.name for file in named if file.name not in text] == []
    assert [config.name for config in CONFIGS if f"configs/{config.stem}" not in text] == []


# Marks that must not stay


def lines_with(pattern: str, *suffixes: str) -> list[str]:
    """`file:number` of each line of the project's files with one of `suffixes` that matches."""
    hits = []
    for file in tracked_files():
        if file.name.endswith(suffixes):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                if re.search(pattern, line):
                    hits.append(f"{file.relative_to(ROOT)}:{number}")
    return hits


def test_no_file_names_a_folder_of_somebodys_machine():
    text_files = (".py", ".sh", ".yaml", ".yml", ".toml", ".md", ".txt", ".cff", ".svg", "run")
    assert lines_with(r"(?<![\w.}])/(?:home|root|Users|work|mnt|scratch)/\w", *text_files) == []


def test_nothing_is_marked_as_unfinished():
    marks = "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK", "NotImplemented" + "Error"])
    assert lines_with(rf"\b({marks})", ".py", ".sh", ".yaml", ".yml", ".toml", "run") == []


def test_no_code_is_commented_out():
    code = r"^\s*#\s*(def |class |import |from \S+ import|return |self\.\w+ =|if .*:$|for .*:$|print\()"
    assert lines_with(code, ".py") == []


# Documentation


def test_commands_and_links_of_the_documentation_exist():
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    missing = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        scripts = [ROOT / name for name in re.findall(r"\bbash (\S+\.sh)", text)]
        links = [document.parent / target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
        missing += [f"{document.name}: {path}" for path in scripts + links if not path.exists()]
    assert missing == []
