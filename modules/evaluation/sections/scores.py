"""Scores of each section of the reports by itself, for models that write several (`data.sections=both`)."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from data.sections.marked_text import MARKERS
from modules.evaluation.metrics.text_scores import TEXT_NAMES, ReportParser
from modules.evaluation.metrics.weighted import RESAMPLES, ScoreResults
from modules.evaluation.records import StudyRecord
from modules.evaluation.scoring import score_records

# The scores of sections as `train.monitor` names them: "impression_bleu_4" -> (section, name).
SECTION_SCORES = {f"{section}_{name}": (section, name) for section in MARKERS for name in TEXT_NAMES}


def score_sections(
    records: Sequence[StudyRecord], meteor: bool = True, resamples: int = RESAMPLES, workers: int = 1,
    parser: ReportParser | None = None,
) -> dict[str, ScoreResults]:
    """Return the scores of texts of each section, over the studies whose reference has it; arguments as in
    `score_records`.

    Empty if the reports have no sections.
    """
    if not any(record.sections for record in records):
        return {}
    return {
        name: score_records(section_records(records, name), meteor, resamples, TEXT_NAMES, workers, parser)
        for name in MARKERS
    }


def score_validation(
    records: Sequence[StudyRecord], meteor: bool, names: Collection[str], workers: int = 1
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the scores `names`, of complete reports or of sections (`SECTION_SCORES`), and why some are absent.

    No others are computed, and no intervals.
    """
    results = score_records(records, meteor, 0, [name for name in names if name not in SECTION_SCORES], workers)
    scores, absent = dict(results.scores), dict(results.absent)
    for section in MARKERS:
        asked = {name: SECTION_SCORES[name][1] for name in names if SECTION_SCORES.get(name, ("",))[0] == section}
        if not asked:
            continue
        of_section = score_records(section_records(records, section), meteor, 0, asked.values(), workers)
        scores |= {name: of_section.scores[own] for name, own in asked.items()}
        absent |= {name: of_section.absent[own] for name, own in asked.items() if own in of_section.absent}
    return scores, absent


def section_records(records: Sequence[StudyRecord], name: str) -> list[StudyRecord]:
    """Return the `records` as if reports were the section `name`; a study whose reference lacks it has no report."""
    return [_section_record(record, name) for record in records]


def _section_record(record: StudyRecord, name: str) -> StudyRecord:
    texts = record.sections.get(name)
    if texts is None or texts.reference is None:
        return replace(
            record, reference="", scored_reference="", generated="", has_report=False, sentences=[], sections={}
        )
    return replace(
        record, reference=texts.reference, scored_reference=texts.scored_reference or "", generated=texts.generated,
        sentences=[sentence for sentence in record.sentences if sentence.section == name], sections={},
    )
