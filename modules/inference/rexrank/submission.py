"""Writes a folder to submit to ReXrank: inference script, environment, model and code.

    inference.py       --input_json_file IN --save_json_file OUT --img_root_dir DIR
    environment.yaml   for conda
    README.md          the model's description
    model/             the checkpoint, as `modules.export` writes it, without programs
    code/              the parts of this repository that generate reports
"""

import shutil
from pathlib import Path

from data.context.settings import INDICATION
from data.errors import UserError, cannot_write
from modules.checkpoint import load_checkpoint
from modules.config import Config
from modules.inference.export_folder import write_weights

_ROOT = Path(__file__).resolve().parents[3]
_PACKAGES = ("data", "models", "modules")

_SCRIPT = '''"""Generates the reports of ReXrank's studies.

    python inference.py --input_json_file IN.json --save_json_file OUT.json --img_root_dir DIR

If interrupted, the same command resumes.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER / "code"))

from data.console import run_command  # noqa: E402


def main() -> int:
    from modules.rexrank import main as generate_reports

    return generate_reports([*sys.argv[1:], "--checkpoint", str(FOLDER / "model")])


if __name__ == "__main__":
    sys.exit(run_command(main))
'''

_README = """# {name}

SGRRG generates the report of a chest X-ray from a predicted scene graph (Wang, Zhu, Bhalerao, He; Computerized Medical
Imaging and Graphics, 2025, article 102644). It takes {inputs}.

```bash
conda env create -f environment.yaml && conda activate sgrrg
python inference.py --input_json_file IN.json --save_json_file OUT.json --img_root_dir DIR
```

`model/README.md` describes the checkpoint and its scores. The submission also asks for the institution, the links to
paper and code, and the year.
"""


def write_submission(checkpoint_path: str | Path, out: Path) -> None:
    """Write the folder `out`.

    Raises UserError if the checkpoint cannot be used, or if `out` exists or cannot be written; there is then no folder.
    """
    if out.exists():
        raise UserError(f"{out} exists: delete it, or give another --submission")
    checkpoint = load_checkpoint(checkpoint_path)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "model").mkdir(parents=True)
        write_weights(partial / "model", checkpoint)
        _copy_code(partial / "code")
        shutil.copyfile(_ROOT / "env.yml", partial / "environment.yaml")
        (partial / "inference.py").write_text(_SCRIPT, encoding="utf-8")
        (partial / "README.md").write_text(_describe(checkpoint.config), encoding="utf-8")
        partial.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describe(config: Config) -> str:
    views = "one frontal image" if config.data.views == 1 else "a frontal and a lateral image"
    context = "the indication" if INDICATION in config.model.context else "no clinical context"
    return _README.format(name=config.name, inputs=f"{views} and {context}")


def _copy_code(folder: Path) -> None:
    """Copy the Python files of the packages, and files/; no data sets and no results."""
    for package in _PACKAGES:
        # Prepared data sets are in data/ as well; they have no Python files, but may have very many others.
        for source in _python_files(_ROOT / package):
            target = folder / source.relative_to(_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    shutil.copytree(_ROOT / "files", folder / "files")
    shutil.copyfile(_ROOT / "LICENSE", folder / "LICENSE")


def _python_files(package: Path) -> list[Path]:
    """The Python files of a package and its sub-packages: folders with an __init__.py."""
    files = sorted(package.glob("*.py"))
    folders = [folder for folder in sorted(package.iterdir()) if (folder / "__init__.py").is_file()]
    return files + [file for folder in folders for file in _python_files(folder)]
