"""What a sentence claims, and whether a reference report supports it.

Claims are read off the text by `data/text_graph.py` and `data/labeler.py`, by the same rules for both reports.
"""

from functools import lru_cache
from typing import NamedTuple

from data.text.report_graph import Sentence, groups, read_report
from data.text.report_labels import NO_FINDING, label_report

NORMAL, ABNORMAL, HEDGE = "nlp|normal", "nlp|abnormal", "severity|hedge"


class Claim(NamedTuple):
    """One thing that a report says.

    region    of the lexicon; None for an observation of the whole study
    name      category|label of an attribute, or an observation
    affirmed  False where it is denied; an uncertain finding counts as affirmed
    """

    region: str | None
    name: str
    affirmed: bool


@lru_cache(maxsize=1 << 16)
def claims(text: str) -> frozenset[Claim]:
    """All that `text`, a report or a sentence of one, claims: of its regions, and the observations that it affirms.

    "Normal" denies what "abnormal" affirms. What is normal or absent in named parts of a lung is not claimed of the
    whole lung, and what is absent somewhere not of the whole study: denials are about regions alone. The side, which
    the regions tell, and how sure the report is are no claims of their own, nor is No Finding, which is about all
    sentences together.
    """
    found = {claim for sentence in read_report(text) for claim in _claims_of_regions(sentence)}
    affirmed = {name for name, value in label_report(text).items() if value != 0 and name != NO_FINDING}
    return frozenset(found | {Claim(None, name, True) for name in affirmed})


def supported(claim: Claim, reference: frozenset[Claim]) -> bool:
    """Whether the claims of a reference hold `claim`; a denial stands as well where they affirm nothing against it.

    What a report is silent about counts as absent, as CheXpert's labels are read.
    """
    if claim in reference:
        return True
    return not claim.affirmed and claim._replace(affirmed=True) not in reference


def is_wrong(sentence: str, reference: str) -> bool | None:
    """Whether some claim of a generated `sentence` is not supported by the report `reference`; None without claims."""
    made = claims(sentence)
    if not made:
        return None
    known = claims(reference)
    return not all(supported(claim, known) for claim in made)


def _claims_of_regions(sentence: Sentence) -> set[Claim]:
    found = set()
    named_parts = {_lung_of(region) for region in sentence.regions} - {None}
    for region in sentence.regions:
        for attribute in sentence.attributes_of(region):
            category, polarity, label = attribute.split("|")
            name, affirmed = f"{category}|{label}", polarity == "yes"
            if category == "laterality" or name == HEDGE:
                continue
            if name == NORMAL:
                name, affirmed = ABNORMAL, False
            if affirmed or region not in named_parts:
                found.add(Claim(region, name, affirmed))
    return found


def _lung_of(region: str) -> str | None:
    """The lung of which `region` is a part; None for a lung itself and for what is no part of one."""
    side, _, part = region.partition(" ")
    return f"{side} lung" if side in ("left", "right") and part != "lung" and groups().get(region) == "lung" else None
