"""The sections of a MIMIC-CXR report.

The files are plain text: a centred title, then sections that begin with a name in capitals at the second column and a
colon. The rules are those of the data set's own section parser, so that a report's findings are what the literature
calls its findings. Its list of 54 studies with rules of their own is not repeated here.
"""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

WANTED = ("findings", "impression", "both")

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):(?=\s)")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_MAIN_NAMES = ("impression", "findings", "history", "comparison", "addendum")
_SYNONYMS = {
    "comparisons": "comparison",
    "comparison exam": "comparison",
    "comparison film": "comparison",
    "reference exam": "comparison",
    "clinical history": "history",
    "patient history": "history",
    "reason for exam": "indication",
    "reason for examination": "indication",
    "clinical indication": "indication",
    "exam": "examination",
    "type of examination": "examination",
    "conclusion": "impression",
    "findings and impression": "impression",
    "findings/impression": "impression",
}
# The title of a view in the place of a name: what follows are its findings.
_VIEWS = (
    "chest",
    "portable",
    "pa and lat",
    "lateral and pa",
    "ap and lat",
    "lateral and ap",
    "frontal and",
    "frontal view",
    "pa view",
    "ap view",
    "lateral view",
    "one view",
    "two views",
    "single view",
    "bone window",
    "frontal upright",
    "frontal semi-upright",
    "ribs",
)
# How alike a single word and a section's name must be for the word to be a misspelling of it.
_LEAST_LIKENESS = 0.85


@dataclass(frozen=True)
class Section:
    """A part of a report.

    name  in lower case; "preamble" before the first name, "full report" where there is none, "last_paragraph" for the
          end of a report that has neither findings nor an impression
    """

    name: str
    text: str


def read_sections(text: str) -> list[Section]:
    """The sections of a report, in their order; empty findings and impressions are left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    headers = list(_HEADER.finditer(text))
    if not headers:
        return _with_last_paragraph([Section("full report", text.strip())])
    sections = [Section("preamble", text[: headers[0].start()].strip())]
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        section = Section(section_name(header[1]), text[header.end() : end].strip())
        # A view's title above FINDINGS: would count as findings without a word.
        if section.text or section.name not in ("findings", "impression"):
            sections.append(section)
    return _with_last_paragraph(sections)


def _with_last_paragraph(sections: list[Section]) -> list[Section]:
    """Where nothing is called findings or impression, what follows the last section's first blank line stands alone."""
    if any(section.name in ("findings", "impression") for section in sections):
        return sections
    *others, last = sections
    first, *rest = _BLANK_LINE.split(last.text, maxsplit=1)
    return [*others, Section(last.name, first), Section("last_paragraph", "".join(rest).strip())]


@lru_cache(maxsize=4096)
def section_name(header: str) -> str:
    """What a section is called, whatever its header says: "FINDINGS/IMPRESSION" -> "impression"."""
    name = " ".join(header.lower().split())
    if name in _SYNONYMS:
        return _SYNONYMS[name]
    for main in _MAIN_NAMES:
        if main in name or SequenceMatcher(None, name, main).ratio() >= _LEAST_LIKENESS:
            return main
    return "findings" if any(view in name for view in _VIEWS) else name


def wanted_text(text: str, wanted: str) -> str:
    """The report that models learn to write: "findings", "impression" or "both" of them; empty where there is none.

    Of sections with the same name the last one counts. Wrapped lines are joined; paragraphs stay apart.
    """
    by_name = {section.name: section.text for section in read_sections(text)}
    names = ("findings", "impression") if wanted == "both" else (wanted,)
    paragraphs = [paragraph for name in names for paragraph in _BLANK_LINE.split(by_name.get(name, ""))]
    return "\n\n".join(filter(None, (" ".join(paragraph.split()) for paragraph in paragraphs)))
