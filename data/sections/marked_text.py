"""Reports in sections: findings and impression as one text, each behind the word that marks it.

Cleaning removes angle brackets, so no report contains a marker of its own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from data.text.cleaning import clean

FINDINGS, IMPRESSION, BOTH = "findings", "impression", "both"
# What a model learns to write (`data.sections`).
SECTION_CHOICES = (FINDINGS, IMPRESSION, BOTH)
MARKERS = {FINDINGS: "<findings>", IMPRESSION: "<impression>"}
_SECTION_OF = {marker: section for section, marker in MARKERS.items()}


def cleaned_report(record: Mapping, sections: str, cleaning: str) -> str | None:
    """Return the cleaned text of a record that `sections` names; None if the study does not have it.

    For BOTH, the text has markers (`mark_sections`); a section without words is left out like an absent one.
    """
    findings, impression = record["report"], record.get("impression")
    if sections != BOTH:
        text = findings if sections == FINDINGS else impression
        return None if text is None else clean(text, cleaning)
    if findings is None and impression is None:
        return None
    return mark_sections({FINDINGS: clean(findings or "", cleaning), IMPRESSION: clean(impression or "", cleaning)})


def mark_sections(texts: Mapping[str, str]) -> str:
    """Return the `texts` by section as one text, each behind its marker; those without words are left out."""
    return " ".join(f"{MARKERS[section]} {texts[section]}" for section in MARKERS if texts.get(section))


def split_sections(text: str) -> dict[str, str]:
    """Return the texts of a marked report by section, in the order of `MARKERS`; the absent sections are left out.

    Words before the first marker are findings. A section that is begun twice is joined. Without a marker, there is no
    section.
    """
    words = text.split()
    if not _SECTION_OF.keys() & set(words):
        return {}
    parts: dict[str, list[str]] = {}
    section = FINDINGS
    for word in words:
        if word in _SECTION_OF:
            section = _SECTION_OF[word]
        else:
            parts.setdefault(section, []).append(word)
    return {section: " ".join(parts[section]) for section in MARKERS if section in parts}


def plain_text(text: str, sections: Collection[str] | None = None) -> str:
    """Return a report without its markers; of a marked one only these `sections`, by default all."""
    if not any(marker in text for marker in _SECTION_OF):
        return text
    parts = split_sections(text).items()
    return " ".join(part for section, part in parts if sections is None or section in sections)


def map_sections(reports: Sequence[str], choose: Callable[[str, list[str]], str]) -> str:
    """Return what `choose` returns for "" and the `reports`; of marked reports, for each section and its texts, marked.
    """
    parts = [split_sections(report) for report in reports]
    if not any(parts):
        return choose("", list(reports))
    return mark_sections({
        section: choose(section, [part[section] for part in parts if section in part])
        for section in MARKERS if any(section in part for part in parts)
    })


def untrained_words(words: Sequence[str]) -> list[bool]:
    """Return which of the words of a marked report, followed by its end, must not be learned: [words + 1].

    A study without findings does not teach that a report begins with the impression, and one without an impression, or
    whose impression was cut off, not that a report ends with the findings.
    """
    untrained = [False] * (len(words) + 1)
    untrained[0] = bool(words) and words[0] == MARKERS[IMPRESSION]
    untrained[-1] = MARKERS[IMPRESSION] not in words
    return untrained
