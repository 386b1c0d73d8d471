"""Generates the reports of ReXrank's studies, with a journal from which an interrupted run resumes."""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from data.context.settings import INDICATION
from data.errors import UserError, cannot_write, wrong_format
from data.storage.atomic_files import atomic_file
from data.storage.manifest import MALFORMED_MANIFEST, seal, unseal
from modules.evaluation.display import format_report, format_sections
from modules.evaluation.formats.rexrank import PREDICTION, Studies, read_indication
from modules.inference.given_context import GivenContext
from modules.inference.predictor import Predictor
from modules.inference.studies import Study

_FRONTAL = "frontal"


class Journal:
    """The reports generated so far, one JSON line with its SHA-256 each, in a hidden file beside the result.

    reports   study -> report, of an earlier run with the same `settings`
    """

    def __init__(self, result: Path, settings: Mapping[str, Any]):
        """Open the journal of the file `result`. Raises UserError if it cannot be written."""
        self.path = _journal_path(result)
        self.reports: dict[str, str] = {}
        lines = self._read()
        if lines and lines[0] == dict(settings):
            self.reports = {line["id"]: line["report"] for line in lines[1:] if line.keys() == {"id", "report"}}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as file:
                file.write(seal(dict(settings)))
                file.writelines(seal({"id": name, "report": report}) for name, report in self.reports.items())
            self._file = self.path.open("ab")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def add(self, name: str, report: str) -> None:
        """Record the report of a study. Raises UserError if the journal cannot be written."""
        self.reports[name] = report
        try:
            self._file.write(seal({"id": name, "report": report}))
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error, "free space, then run the same command to resume") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> list[dict[str, Any]]:
        """The undamaged lines of an earlier journal, without one that a crash cut short."""
        lines: list[dict[str, Any]] = []
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines():
                with suppress(*MALFORMED_MANIFEST):
                    lines.append(unseal(line))
        return lines


def predict_studies(predictor: Predictor, studies: Studies, images: Path, result: Path) -> tuple[Studies, list[str]]:
    """Return `studies` with their reports, and the ids of those whose images cannot be read: their report is empty.

    images   the folder that image paths are relative to
    result   the file that the caller writes; its journal is kept until `finish_journal`

    A model that reads indications is given those of the studies' context. Raises UserError if a study names no image,
    its context is no text, or the journal cannot be written.
    """
    config = predictor.config
    reads_indication = INDICATION in config.model.context
    chosen = {}
    for name, study in studies.items():
        where = f"study {name}"
        context = GivenContext(read_indication(study, where)) if reads_indication else None
        chosen[name] = Study(name, study_images(study, images, config.data.views, where), context)
    journal = Journal(result, {"model": fingerprint(predictor.model), "beam_size": predictor.beam_size,
                               "images": str(images.resolve()), "reads_indication": reads_indication})
    failed: list[str] = []
    try:
        remaining = [study for name, study in chosen.items() if name not in journal.reports]
        if len(remaining) < len(chosen):
            print(f"Resuming: {len(chosen) - len(remaining)} of {len(chosen)} studies have a report", file=sys.stderr)
        with tqdm(total=len(chosen), initial=len(chosen) - len(remaining), unit="study", disable=None) as progress:
            for name, report in _generate(predictor, remaining, failed):
                journal.add(name, report)
                progress.update()
    finally:
        journal.close()
    # A study that failed has an empty report and is tried again by the next run.
    return {name: study | {PREDICTION: journal.reports.get(name, "")} for name, study in studies.items()}, failed


def finish_journal(result: Path) -> None:
    """Delete the journal of `result`, which is written."""
    _journal_path(result).unlink(missing_ok=True)


def _journal_path(result: Path) -> Path:
    return result.with_name(f".{result.name}.partial.jsonl")


def study_images(study: Mapping[str, Any], root: Path, views: int, where: str) -> tuple[Path, ...]:
    """Return the images of a study that a model of so many `views` takes, the frontal one first.

    The first one is `key_image_path`, else the first that `frontal_lateral` calls frontal, else the first of all; the
    second one is a lateral if there is one. Raises UserError, naming `where`, if the study names no image.
    """
    paths, kinds = _as_list(study.get("image_path"), where), _as_list(study.get("frontal_lateral"), where)
    frontal = [path for path, kind in zip(paths, kinds, strict=False) if kind.lower() == _FRONTAL]
    key = study.get("key_image_path") or next(iter([*frontal, *paths]), None)
    if not isinstance(key, str):
        raise UserError(f"{where} names no image: give image_path or key_image_path")
    others = [path for path in paths if path != key]
    chosen = [key, *sorted(others, key=lambda path: path in frontal)][:views]
    # ReXrank's paths may begin with a slash: they are appended to the folder.
    return tuple(root / path.lstrip("/") for path in chosen)


def fingerprint(model: nn.Module) -> str:
    """A digest of the model's weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _as_list(value: Any, where: str) -> list[str]:
    """A list of texts; a single text is a list of one, and None is empty."""
    values = [value] if isinstance(value, str) else value or []
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise wrong_format(f"{where}: image_path or frontal_lateral", "a list of texts", "write it as ReXrank does")
    return values


def _generate(predictor: Predictor, studies: Sequence[Study], failed: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the id and the report of each study that can be read, in batches; add the others to `failed`."""
    for start in range(0, len(studies), predictor.batch_size):
        batch = []
        for study in studies[start : start + predictor.batch_size]:
            try:
                batch.append(predictor.read(study))
            except UserError as error:
                tqdm.write(f"study {study.name}: {error}", file=sys.stderr)
                failed.append(study.name)
        for study, prediction in zip(batch, predictor.predict_read(batch), strict=True):
            # ReXrank's references have these headings too, one after the other in a line.
            in_sections = " ".join(format_sections(prediction.sections).splitlines())
            yield study.name, in_sections or format_report(prediction.report)
