"""Splits MIMIC-CXR reports into sections.

The files are plain text: a centred title, then sections that start with a name in capitals in the second column and a
colon. The rules follow the section parser published with the data set, so that findings are the same as in the
literature. Its list of 54 studies with individual rules is not included.
"""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

# What models can learn to write.
SECTIONS = ("findings", "impression", "both")

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
# Titles of views in place of a section name: their text is findings.
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
# Similarity from which a header counts as a misspelt section name.
_MIN_SIMILARITY = 0.85


@dataclass(frozen=True)
class Section:
    """A section of a report.

    name  in lower case; "preamble" for the text before the first header, "full report" for a report without headers,
          "last_paragraph" for the end of a report that has neither findings nor an impression
    """

    name: str
    text: str


def read_sections(text: str) -> list[Section]:
    """Return the sections of a report, in order; empty findings and impressions are left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    headers = list(_HEADER.finditer(text))
    if not headers:
        return _with_last_paragraph([Section("full report", text.strip())])
    sections = [Section("preamble", text[: headers[0].start()].strip())]
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        section = Section(section_name(header[1]), text[header.end() : end].strip())
        # A view's title right above FINDINGS would count as empty findings.
        if section.text or section.name not in ("findings", "impression"):
            sections.append(section)
    return _with_last_paragraph(sections)


def _with_last_paragraph(sections: list[Section]) -> list[Section]:
    """Split off the text after the last section's first blank line if there are no findings and no impression."""
    if any(section.name in ("findings", "impression") for section in sections):
        return sections
    *others, last = sections
    first, *rest = _BLANK_LINE.split(last.text, maxsplit=1)
    return [*others, Section(last.name, first), Section("last_paragraph", "".join(rest).strip())]


@lru_cache(maxsize=4096)
def section_name(header: str) -> str:
    """Return the normalised name of a header: "FINDINGS/IMPRESSION" -> "impression"."""
    name = " ".join(header.lower().split())
    if name in _SYNONYMS:
        return _SYNONYMS[name]
    for main in _MAIN_NAMES:
        if main in name or SequenceMatcher(None, name, main).ratio() >= _MIN_SIMILARITY:
            return main
    return "findings" if any(view in name for view in _VIEWS) else name


def extract_indication(text: str) -> str:
    """Return why the study was requested: INDICATION (or REASON FOR EXAM) of a report, else HISTORY; "" if absent."""
    return extract_section(text, "indication") or extract_section(text, "history")


def extract_section(text: str, section: str) -> str:
    """Return the text of a section, such as "findings", or of "both" findings and impression; "" if absent.

    The last of several sections with the same name counts. Wrapped lines are joined; paragraphs are kept apart.
    """
    by_name = {part.name: part.text for part in read_sections(text)}
    names = ("findings", "impression") if section == "both" else (section,)
    paragraphs = [paragraph for name in names for paragraph in _BLANK_LINE.split(by_name.get(name, ""))]
    return "\n\n".join(filter(None, (" ".join(paragraph.split()) for paragraph in paragraphs)))
