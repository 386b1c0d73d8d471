"""What a sentence claims, and whether a reference report supports it.

`data/text_graph.py` and `data/labeler.py` read the claims of both texts by the same rules.
"""

from functools import lru_cache
from typing import NamedTuple

from data.text.findings import Sentence
from data.text.report_graph import read_report, region_groups
from data.text.report_labels import NO_FINDING, label_report

NORMAL, ABNORMAL, HEDGE = "nlp|normal", "nlp|abnormal", "severity|hedge"


class Claim(NamedTuple):
    """One statement of a report.

    region    a region of the lexicon; None for an observation of the whole study
    name      category|label of an attribute, or an observation
    affirmed  False if the report denies it; uncertain findings count as affirmed
    """

    region: str | None
    name: str
    affirmed: bool


@lru_cache(maxsize=1 << 16)
def extract_claims(text: str) -> frozenset[Claim]:
    """Return the claims of `text` (a report or a sentence): attributes of regions, and affirmed observations.

    - "Normal" is the denial of "abnormal".
    - Denials are about regions only: an absent finding in a region says nothing about the whole study, and a normal
      part of a lung says nothing about the whole lung.
    - Not claims: the side (the region implies it), the degree of certainty, and No Finding (it concerns all sentences
      together).
    """
    region_claims = {claim for sentence in read_report(text) for claim in _region_claims(sentence)}
    observations = {name for name, value in label_report(text).items() if value != 0 and name != NO_FINDING}
    return frozenset(region_claims | {Claim(None, name, True) for name in observations})


def is_supported(claim: Claim, reference: frozenset[Claim]) -> bool:
    """Return whether the claims of a reference include `claim` or, for a denial, at least do not affirm the contrary.

    What a report does not mention counts as absent, as in CheXpert's labels.
    """
    if claim in reference:
        return True
    return not claim.affirmed and claim._replace(affirmed=True) not in reference


def is_wrong(sentence: str, reference: str) -> bool | None:
    """Return whether the report `reference` fails to support a claim of `sentence`; None if it claims nothing."""
    claims = extract_claims(sentence)
    if not claims:
        return None
    reference_claims = extract_claims(reference)
    return not all(is_supported(claim, reference_claims) for claim in claims)


def _region_claims(sentence: Sentence) -> set[Claim]:
    claims = set()
    lungs_with_named_parts = {_parent_lung(region) for region in sentence.regions} - {None}
    for region in sentence.regions:
        for attribute in sentence.attributes_of(region):
            category, polarity, label = attribute.split("|")
            name, affirmed = f"{category}|{label}", polarity == "yes"
            if category == "laterality" or name == HEDGE:
                continue
            if name == NORMAL:
                name, affirmed = ABNORMAL, False
            if affirmed or region not in lungs_with_named_parts:
                claims.add(Claim(region, name, affirmed))
    return claims


def _parent_lung(region: str) -> str | None:
    """Return the lung that `region` is a part of; None for a whole lung and for regions outside the lungs."""
    side, _, part = region.partition(" ")
    is_part = side in ("left", "right") and part != "lung" and region_groups().get(region) == "lung"
    return f"{side} lung" if is_part else None
