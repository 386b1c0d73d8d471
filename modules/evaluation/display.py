"""Formats reports for readers."""

import re
from collections.abc import Mapping

# In capitals in clinical reports. Those that are also words ("or", "us", "aids", "tips") are left out.
_ABBREVIATIONS = frozenset(
    # Views and examinations
    "ap pa lao rao cxr ct cta hrct mr mri mra pet kub vq ecg ekg tee tte pft "
    # Lines, tubes, devices and operations
    "ng og nj et ett picc cvc cvl cvp ij iv icd aicd iabp ecmo lvad vp peg cabg avr mvr tavr vats "
    # Anatomy
    "svc ivc ra rv la lv lad lul lll rul rml rll gi "
    # Diseases
    "copd chf cad cva ards ild ipf uip nsip bpd tb hiv pcp mai rsv cmv covid pe dvt pna htn gerd esrd ckd "
    # Wards
    "icu micu sicu nicu ccu pacu ed".split()
)
_LOWER_CASE_WORD = re.compile(r"(?<![A-Za-z0-9])[a-z]+[0-9]*(?![A-Za-z0-9])")
_VERTEBRA = re.compile(r"[ctl][0-9]{1,2}")
# Cleaned reports end every sentence with " .".
_SENTENCE_START = re.compile(r"(\A\s*|\s\.\s+)([a-z])")
_SPACE_BEFORE_PUNCTUATION = re.compile(r"\s+([.,;:])")


def format_report(text: str) -> str:
    """Format a cleaned or generated report, or one of its sentences, for display.

    Abbreviations are in capitals ("AP view"), sentences start with a capital letter, and punctuation follows its word
    without a space. Capitals of `text` are unchanged.
    """
    text = _LOWER_CASE_WORD.sub(_capitalise_abbreviation, text)
    text = _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)
    return _SPACE_BEFORE_PUNCTUATION.sub(r"\1", text)


def format_sections(sections: Mapping[str, str]) -> str:
    """Format the texts of a report's sections for display: each in a line, behind its name."""
    return "\n".join(f"{section.capitalize()}: {format_report(text)}" for section, text in sections.items())


def _capitalise_abbreviation(match: re.Match[str]) -> str:
    word = match[0]
    return word.upper() if word in _ABBREVIATIONS or _VERTEBRA.fullmatch(word) else word
