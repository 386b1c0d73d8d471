"""Reads generated reports and their references from the formats of other programs, and says what was taken for what.

    ReXrank's JSON                               sections by their keys, generated reports from model_prediction
    two CSVs with study_id and report            generated reports, and --references FILE (CXR-Report-Metric)
    any CSV, JSON lines, JSON or Parquet table   columns by --columns, or by their usual names
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from modules.evaluation.formats.columns import (
    GENERATED,
    ID,
    REFERENCE,
    ROLES,
    SECTION_ROLES,
    find_columns,
    parse_columns,
)
from modules.evaluation.formats.rexrank import Studies, generated_report, is_rexrank, reference_sections
from modules.evaluation.formats.sections import REPORT, SECTIONS, ReportSections, split_sections
from modules.evaluation.formats.tables import JSON_LINES, Row, read_json, read_rows

# The column of a table that has only one text for each study, as in CXR-Report-Metric.
_SINGLE_TEXT = "report"
# The key of our predictions.jsonl with the texts of each section.
_OWN_SECTIONS = "sections"


@dataclass(frozen=True)
class FormatOptions:
    """What to take from a file.

    columns      role -> column (see `columns.py`)
    references   a second file with the references; None if the first one has them
    section      one of `SECTIONS`
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    references: Path | None = None
    section: str = REPORT

    @staticmethod
    def from_options(options: Namespace) -> "FormatOptions":
        """Return what the options of `add_format_options` say. Raises UserError for a malformed one."""
        columns = {} if options.columns is None else parse_columns(options.columns)
        return FormatOptions(columns, options.references, options.section)


@dataclass
class ReadReports:
    """The rows of a file, each with id, reference and generated; and what they were taken from, in words."""

    rows: list[Row]
    taken: str


def add_format_options(parser: ArgumentParser) -> None:
    """Add the options that `FormatOptions.from_options` reads."""
    parser.add_argument(
        "--columns", metavar="ROLE=COLUMN,...",
        help="columns of a table: id=..., reference=..., generated=...; sections apart: reference_findings=..., "
        "reference_impression=..., generated_findings=..., generated_impression=...",
    )
    parser.add_argument(
        "--references", type=Path, metavar="FILE", help="the references, by id, if PREDICTIONS has none"
    )
    parser.add_argument(
        "--section", choices=SECTIONS, default=REPORT, help="score the complete reports, or one section of both texts"
    )


def read_reports(path: Path, options: FormatOptions) -> ReadReports:
    """Read the reports of a file in any of the formats. Raises UserError if that is impossible."""
    if options.references is not None:
        generated = _read_texts(path, GENERATED, options)
        references = _read_texts(options.references, REFERENCE, options)
        rows = _join(generated.rows, references.rows, path, options.references)
        return ReadReports(rows, f"{generated.taken}; {references.taken} of {options.references}")
    if path.suffix == ".json" and is_rexrank(content := read_json(path)):
        return _read_rexrank(content, path, (REFERENCE, GENERATED), options.section)
    return _read_table(path, (REFERENCE, GENERATED), options)


def _read_texts(path: Path, text: str, options: FormatOptions) -> ReadReports:
    """Read the ids and one of the two texts of a file."""
    if path.suffix == ".json" and is_rexrank(content := read_json(path)):
        return _read_rexrank(content, path, (text,), options.section)
    return _read_table(path, (text,), options)


def _join(generated: Sequence[Row], references: Sequence[Row], path: Path, references_path: Path) -> list[Row]:
    """The rows of both files by id, in the order of `generated`. Raises UserError if their ids differ."""
    by_id = {str(row.get(ID)): row for row in references}
    if len(by_id) < len(references):
        raise UserError(f"{references_path} has two references with one id: give every study a single one")
    ids = [str(row.get(ID)) for row in generated]
    different = sorted(set(by_id) ^ set(ids))
    if different:
        raise UserError(
            f"{path} and {references_path} are not about the same studies, only one of them has {different[0]}: give "
            "the references of these reports"
        )
    # The cut of a protocol is that of the file's own references.
    rows = [{key: value for key, value in row.items() if key != "scored_reference"} for row in generated]
    return [row | {REFERENCE: by_id[name].get(REFERENCE)} for name, row in zip(ids, rows, strict=True)]


# ReXrank


def _read_rexrank(content: Studies, path: Path, texts: Sequence[str], section: str) -> ReadReports:
    rows, taken = [], []
    for name, study in content.items():
        where, row = f"{path}: study {name}", {ID: name}
        if REFERENCE in texts:
            row[REFERENCE] = reference_sections(study, where).select(section)
        if GENERATED in texts:
            row[GENERATED] = generated_report(study, where)
        rows.append(row)
    if REFERENCE in texts:
        chosen = {REPORT: 'section_findings and section_impression, as "Findings: ... Impression: ..."'}
        taken.append(f"reference from {chosen.get(section, f'section_{section}')}")
    if GENERATED in texts:
        taken.append("generated from model_prediction" + _cut_to_section(rows, GENERATED, section))
    return ReadReports(rows, f"ReXrank's JSON: {', '.join(taken)}")


# Tables


def _read_table(path: Path, texts: Sequence[str], options: FormatOptions) -> ReadReports:
    kind, rows = read_rows(path)
    if not rows:
        return ReadReports([], kind)
    if options.section != REPORT and any(_OWN_SECTIONS in row for row in rows):
        rows = [_cut_to_own_section(row, options.section) for row in rows]
        return ReadReports(rows, f"{kind}: the {options.section} of its '{_OWN_SECTIONS}'")
    # A table with only one kind of text has it in the column "report".
    extra = {texts[0]: _SINGLE_TEXT} if len(texts) == 1 else {}
    whole = [text for text in texts if not set(SECTION_ROLES[text]) & set(options.columns)]
    found = find_columns(rows[0], (ID, *whole), options.columns, path, extra)
    for role in (ID, *whole):
        if role not in found and path.suffix not in JSON_LINES:
            raise _missing_column(path, role, rows[0], texts)
    taken = [f"{role} from '{column}'" for role, column in found.items()]
    rows = [row | {role: row[column] for role, column in found.items() if column in row} for row in rows]
    for text in whole:
        if options.section != REPORT and text in found:
            # The protocol's cut of a complete reference is not that of its section.
            rows = [{key: value for key, value in row.items() if key != "scored_reference"} for row in rows]
            taken.append(f"{text}{_cut_to_section(rows, text, options.section)}")
    for text in (text for text in texts if text not in whole):
        roles = [role for role in SECTION_ROLES[text] if role in options.columns]
        columns = find_columns(rows[0], roles, options.columns, path, {})
        for row in rows:
            sections = (_text(row, columns.get(role)) for role in SECTION_ROLES[text])
            row[text] = ReportSections(*sections).select(options.section)
        taken += [f"{role} from '{column}'" for role, column in columns.items()]
    return ReadReports(rows, f"{kind}: {', '.join(taken)}")


def _cut_to_own_section(row: Row, section: str) -> Row:
    """Return a row of our predictions.jsonl with the texts of one of its sections; null if the reference lacks it."""
    texts = (row.get(_OWN_SECTIONS) or {}).get(section, {})
    if texts.get(REFERENCE) is None:
        texts = {GENERATED: None}
    return row | {name: texts.get(name) for name in (REFERENCE, "scored_reference", GENERATED)}


def _missing_column(path: Path, role: str, header: Row, texts: Sequence[str]) -> UserError:
    needed = ", ".join(name for name in ROLES if name == ID or name in texts)
    fix = f"name it with --columns {role}=COLUMN"
    if role != ID and len(texts) > 1 and _SINGLE_TEXT in header:
        fix = "its column 'report' is one of the two texts: give the references with --references FILE"
    return UserError(f"{path} has no column '{role}': it needs {needed}; {fix}")


def _cut_to_section(rows: list[Row], text: str, section: str) -> str:
    """Replace the texts by one of their sections; return how, in words: nothing for complete reports."""
    if section == REPORT:
        return ""
    split = [split_sections(row[text]) if isinstance(row.get(text), str) else None for row in rows]
    for row, sections in zip(rows, split, strict=True):
        if sections is not None:
            row[text] = sections.select(section)
    with_headings = sum(sections is not None and sections.has_headings for sections in split)
    return f" cut to its {section} ({with_headings} of {len(rows)} have headings, the others count as findings)"


def _text(row: Mapping[str, Any], column: str | None) -> str:
    """The text in a column of a section; empty without the column or for a missing value."""
    value = None if column is None else row.get(column)
    return "" if value is None else str(value).strip()
