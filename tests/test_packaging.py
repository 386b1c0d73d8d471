"""Repository checks: pinned packages, configurations, licence, import direction, unused files, documentation, size."""

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
PREPARED = {"iu_xray", "mimic_cxr", "chest_imagenome", "nih_cxr14", "jsrt"}


@cache
def tracked_files() -> list[Path]:
    """All text files of the project, without generated folders and prepared data sets."""
    paths = []
    for folder, names, files in os.walk(ROOT):
        inside_data = Path(folder) == ROOT / "data"
        names[:] = [
            name for name in names
            if name not in GENERATED and not (inside_data and (name in PREPARED or name.startswith("phantom")))
        ]
        paths += [Path(folder) / file for file in files if not file.endswith((".png", ".jpg", ".pyc"))]
    return sorted(paths)


def python_files(*folders: str) -> list[Path]:
    """The Python files in these top-level folders."""
    return [file for file in tracked_files() if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in folders]


def imported_names(file: Path) -> set[str]:
    """Dotted names that `file` imports; `from a import b` gives a and a.b, since b may be a module."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: use an absolute import of {node.module}"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def parse_pins(lines: list[str]) -> set[str]:
    """Requirement lines without comments, blank lines and includes, with spaces normalised."""
    stripped = (" ".join(line.split("#")[0].split()) for line in lines)
    return {line for line in stripped if line and not line.startswith("-")}


# Packaging


def test_conda_environment_and_requirements_pin_the_same_packages():
    environment = yaml.safe_load((ROOT / "env.yml").read_text(encoding="utf-8"))
    by_pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    requirements = parse_pins((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert parse_pins(by_pip) == requirements
    assert "python=3.11" in environment["dependencies"]
    assert all(re.match(r"[\w-]+==[\d.]+(; platform_machine [!=]= \"aarch64\")?$", pin) for pin in requirements)


@pytest.mark.parametrize("extra", ["bench", "demo", "dev", "parquet", "tracking", "trunks"])
def test_extra_requirements_build_on_the_program_ones(extra):
    lines = (ROOT / f"requirements-{extra}.txt").read_text(encoding="utf-8").splitlines()
    assert "-r requirements.txt" in lines
    assert all("==" in pin for pin in parse_pins(lines))


def test_extras_build_on_the_program_ones_and_agree():
    files = (ROOT / f"requirements-{name}.txt" for name in ("bench", "metrics", "trunks"))
    extras = [file.read_text(encoding="utf-8").splitlines() for file in files]
    assert all("-r requirements.txt" in lines and all("==" in pin for pin in parse_pins(lines)) for lines in extras)
    versions = [dict(pin.split("==") for pin in parse_pins(lines)) for lines in extras]
    assert len({each["transformers"] for each in versions}) == 1


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


def flatten(values: dict, prefix: str = "") -> dict[str, object]:
    """Flatten a nested dictionary to dotted keys."""
    flat = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def test_the_experiments_are_there():
    family = {f"{data}_{system}" for data in ("iu_xray", "mimic_cxr")
              for system in ("r2gen", "cmn", "camanet", "xpronet")}
    assert {config.stem for config in CONFIGS} == {
        "chest_imagenome", "demo", "iu_xray", "mimic_cxr", "nih_cxr14", *family
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_parses_and_holds_only_what_differs_from_the_defaults(path):
    assert load_config(path).name == path.stem
    defaults = flatten(dataclasses.asdict(Config()))
    for key, value in flatten(yaml.safe_load(path.read_text(encoding="utf-8"))).items():
        assert value != defaults[key], f"{path.name}: {key} has the default value {value}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_header_says_command_time_and_score(path):
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    script = re.search(r"^# Command: +bash (\w+\.sh)( \S+)*$", header, re.MULTILINE).group(1)
    assert (ROOT / script).is_file()
    assert re.search(r"^# Time: +\S", header, re.MULTILINE)
    assert re.search(r"^# Score: +\S", header, re.MULTILINE)


# Import direction


@pytest.mark.parametrize("file", python_files("models"), ids=lambda file: str(file.relative_to(ROOT)))
def test_models_import_torch_and_models_only(file):
    allowed = {"torch", "torchvision", "models"} | sys.stdlib_module_names
    if file.parent.name == "trunks":  # they wrap the libraries of trunks and read their files
        allowed |= {"timm", "transformers", "torchxrayvision", "huggingface_hub", "safetensors"}
    assert {name.split(".")[0] for name in imported_names(file)} <= allowed


@pytest.mark.parametrize("file", python_files("data"), ids=lambda file: str(file.relative_to(ROOT)))
def test_data_never_import_models_modules_or_entry_points(file):
    roots = {name.split(".")[0] for name in imported_names(file)}
    assert not roots & {"models", "modules", "main_train", "main_test"}


@pytest.mark.parametrize("file", python_files("modules"), ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_never_import_entry_points(file):
    assert not {name for name in imported_names(file) if name.startswith(("main_", "tests", "benchmarks"))}


@pytest.mark.parametrize("file", python_files("data"), ids=lambda file: str(file.relative_to(ROOT)))
def test_data_start_no_command_of_modules(file):
    assert "subprocess" not in imported_names(file)


def project_imports(file: Path) -> set[str]:
    """The names imported from packages of this project."""
    return {name for name in imported_names(file) if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("file", python_files("data"), ids=lambda file: str(file.relative_to(ROOT)))
def test_text_images_and_sources_build_on_each_other_in_one_direction(file):
    room = file.relative_to(ROOT / "data").parts[0]
    forbidden = {"text": ("data.images", "data.sources"), "images": ("data.sources",)}.get(room, ())
    assert not {name for name in project_imports(file) if name.startswith(forbidden)} if forbidden else True


@pytest.mark.parametrize("file", python_files("modules"), ids=lambda file: str(file.relative_to(ROOT)))
def test_training_evaluation_and_inference_build_on_each_other_in_one_direction(file):
    room = file.relative_to(ROOT / "modules").parts[0]
    forbidden = {
        "training": ("modules.evaluation", "modules.inference"),
        "evaluation": ("modules.training", "modules.inference"),
    }.get(room)
    if forbidden is not None:
        # The only types that evaluation uses from training: the interface of a validator and its exception.
        names = {name for name in project_imports(file) if not name.startswith("modules.training.validation")}
        assert not {name for name in names - {"modules.training"} if name.startswith(forbidden)}


def test_torchvision_is_imported_by_at_most_two_model_files():
    roots = [{name.split(".")[0] for name in imported_names(file)} for file in python_files("models")]
    assert sum("torchvision" in names for names in roots) <= 2


# Unused files


def entry_points() -> list[Path]:
    """The files that a user runs or imports: main_*.py, `python -m` commands, predictor, hub, all benchmarks."""
    commands = [file for file in python_files(*PACKAGES) if '__name__ == "__main__"' in file.read_text("utf-8")]
    benchmarks = python_files("benchmarks")
    interfaces = [ROOT / "modules" / f"{name}.py" for name in ("hub", "predictor")]
    return sorted(ROOT.glob("main_*.py")) + commands + interfaces + benchmarks


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
            # Importing a.b.c also imports the packages a and a.b.
            parts = name.split(".")
            waiting += [modules[prefix] for i in range(len(parts)) if (prefix := ".".join(parts[: i + 1])) in modules]
    unreachable = [str(file.relative_to(ROOT)) for file in modules.values() if file not in reached]
    assert unreachable == []


def test_every_data_file_and_configuration_is_named_by_code_or_a_script():
    sources = python_files(*PACKAGES) + [file for file in tracked_files() if file.suffix == ".sh"] + entry_points()
    text = "\n".join(file.read_text(encoding="utf-8") for file in sources)
    named = [file for file in (ROOT / "files").iterdir() if file.name != "README.md"]
    assert [file.name for file in named if file.name not in text] == []
    assert [config.name for config in CONFIGS if f"configs/{config.stem}" not in text] == []


# Leftovers


def lines_with(pattern: str, *suffixes: str) -> list[str]:
    """`file:number` of each matching line, in files whose name ends with one of `suffixes`."""
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

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "files" / "README.md"]


@cache
def defined_names(file: Path) -> set[str]:
    """Functions, classes, methods (as Class.method) and module-level variables that `file` defines."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            methods = (entry.name for entry in node.body if isinstance(entry, ast.FunctionDef))
            names.update([node.name, *(f"{node.name}.{method}" for method in methods)])
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


@cache
def all_defined_names() -> set[str]:
    """`defined_names` of the whole program; methods without their class."""
    return {name.split(".")[-1] for file in python_files(*PACKAGES, "benchmarks") for name in defined_names(file)}


def test_commands_and_links_of_the_documentation_exist():
    missing = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        scripts = [ROOT / name for name in re.findall(r"\bbash (\S+\.sh)", text)]
        links = [document.parent / target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
        missing += [f"{document.name}: {path}" for path in scripts + links if not path.exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_files_and_functions_named_in_the_documentation_exist(document):
    """`folder/file.py`, `folder/file.py::name`, `name(...)` in a code span, and the modules of `python -m` commands."""
    text = document.read_text(encoding="utf-8")
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    missing = []
    for path, name in re.findall(r"(?<![\w./-])([\w./-]+\.py)(?:::([\w.]+))?", text):
        if not (ROOT / path).is_file():
            missing.append(path)
        elif name and name not in defined_names(ROOT / path):
            missing.append(f"{path}::{name}")
    for name in filter(None, (re.match(r"([A-Za-z_]\w*)\(", span) for span in spans)):
        if name[1] not in all_defined_names():
            missing.append(name[1])
    for module in re.findall(r"\bpython -m ((?:data|modules|benchmarks|docs)\b(?:\.\w+)*)", text):
        path = ROOT / module.replace(".", "/")
        if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
            missing.append(module)
    assert missing == []


# Size


def test_no_python_file_is_longer_than_450_lines():
    files = [file for file in tracked_files() if file.suffix == ".py"]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {str(file.relative_to(ROOT)): length for file, length in lengths.items() if length > 450} == {}


def test_no_folder_holds_more_than_16_python_files():
    counts = Counter(file.parent for file in tracked_files() if file.suffix == ".py")
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > 16} == {}
