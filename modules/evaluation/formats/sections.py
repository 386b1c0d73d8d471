"""Findings and impression of a report, by their headings."""

import re
from dataclasses import dataclass

# What is scored: the complete report, or one section of both texts.
REPORT, FINDINGS, IMPRESSION = "report", "findings", "impression"
SECTIONS = (REPORT, FINDINGS, IMPRESSION)

_HEADING = re.compile(r"(?<![a-z])(findings?|impressions?|conclusions?)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ReportSections:
    """The sections of a report; an absent one is empty.

    has_headings   False if the text has no heading: it is then taken as findings
    """

    findings: str
    impression: str
    has_headings: bool = True

    def select(self, section: str) -> str:
        """Return one of `SECTIONS`; the complete report has headings, as ReXrank writes its references."""
        return join_sections(self.findings, self.impression) if section == REPORT else getattr(self, section)


def join_sections(findings: str, impression: str) -> str:
    """Return "Findings: ... Impression: ...", without the part of an empty section."""
    parts = (("Findings", findings), ("Impression", impression))
    return " ".join(f"{heading}: {text}" for heading, text in parts if text)


def split_sections(text: str) -> ReportSections:
    """Split a report at its headings (findings; impression or conclusion).

    Text before the heading of the impression belongs to the findings if they have no heading of their own, and is left
    out otherwise (indication, technique). A section that occurs twice is joined.
    """
    headings = list(_HEADING.finditer(text))
    if not headings:
        return ReportSections(text.strip(), "", has_headings=False)
    sections: dict[str, list[str]] = {FINDINGS: [], IMPRESSION: []}
    for position, heading in enumerate(headings):
        end = headings[position + 1].start() if position + 1 < len(headings) else len(text)
        name = FINDINGS if heading[1].lower().startswith("finding") else IMPRESSION
        sections[name].append(text[heading.end() : end].strip())
    if not sections[FINDINGS]:
        sections[FINDINGS].append(text[: headings[0].start()].strip())
    return ReportSections(*(" ".join(filter(None, sections[name])) for name in (FINDINGS, IMPRESSION)))
