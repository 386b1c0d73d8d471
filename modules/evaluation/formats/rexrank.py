"""ReXrank's JSON: an object of studies by id (https://rexrank.ai).

    image_path           list of image files, relative to the folder of images
    key_image_path       the frontal one, for models that take a single image
    frontal_lateral      "Frontal" or "Lateral" for each image
    context              age, sex, indication and comparison, as "Age:60-70.Gender:F.Indication: ...Comparison: ..."
    section_findings, section_impression   of the reference report
    report               both, as "Findings: ... Impression: ..."
    model_prediction     the generated report

A missing section is null, NaN or absent. Earlier files call the sections findings and impression.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError, wrong_format
from modules.evaluation.formats.sections import ReportSections
from modules.evaluation.formats.tables import read_json
from modules.evaluation.results import write_atomically

PREDICTION = "model_prediction"
# Names of the two sections: the current ones, and those of earlier files.
_SECTION_KEYS = (("section_findings", "section_impression"), ("findings", "impression"))
_KEYS = {"image_path", "key_image_path", PREDICTION, *(key for keys in _SECTION_KEYS for key in keys)}

_INDICATION = re.compile(r"\bindication\s*:(.*?)(?:comparison\s*:|$)", re.IGNORECASE | re.DOTALL)
_NO_INDICATION = ("", "nan", "none", "n/a")

Studies = dict[str, dict[str, Any]]


def is_rexrank(content: Any) -> bool:
    """Whether `content` of a JSON file looks like ReXrank's: an object of objects, with one of ReXrank's keys."""
    return (
        isinstance(content, dict) and bool(content)
        and all(isinstance(study, dict) for study in content.values())
        and bool(_KEYS & set(next(iter(content.values()))))
    )


def read_studies(path: Path) -> Studies:
    """Read ReXrank's JSON: study id -> its fields. Raises UserError if the file is something else."""
    content = read_json(path)
    if not is_rexrank(content):
        raise wrong_format(path, "ReXrank's JSON", 'write {"STUDY": {"image_path": [...], ...}, ...}')
    return content


def reference_sections(study: Mapping[str, Any], where: str) -> ReportSections:
    """Return the sections of a study's reference report; `where` names the study in an error."""
    keys = next((keys for keys in _SECTION_KEYS if set(keys) & set(study)), _SECTION_KEYS[0])
    texts = [study.get(key) for key in keys]
    for key, text in zip(keys, texts, strict=True):
        if not isinstance(text, str | None):
            raise wrong_format(f"{where}: '{key}'", "text", "write it as a string, or null if it is missing")
    return ReportSections(*((text or "").strip() for text in texts))


def read_indication(study: Mapping[str, Any], where: str) -> str | None:
    """Return the indication in a study's context; None if it has none. Raises UserError if the context is no text."""
    context = study.get("context")
    if context is None:
        return None
    if not isinstance(context, str):
        raise wrong_format(f"{where}: 'context'", "text", "write it as a string, or null if it is missing")
    found = _INDICATION.search(context)
    text = "" if found is None else found[1].strip()
    return None if text.lower().rstrip(".") in _NO_INDICATION else text


def write_context(indication: str | None) -> str:
    """Return ReXrank's context of a study of which at most the indication is known."""
    return "" if indication is None else f"Indication: {indication}"


def generated_report(study: Mapping[str, Any], where: str) -> str:
    """Return the generated report of a study. Raises UserError if it has none."""
    text = study.get(PREDICTION)
    if text is None:
        raise UserError(f"{where} has no '{PREDICTION}': write the reports with python -m modules.rexrank")
    if not isinstance(text, str):
        raise wrong_format(f"{where}: '{PREDICTION}'", "text", "write it as a string")
    return text


def write_studies(path: Path, studies: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ReXrank's JSON, completely or not at all. Raises UserError if that fails."""
    write_atomically(path, [json.dumps(studies, indent=4, ensure_ascii=False, allow_nan=False), "\n"])
