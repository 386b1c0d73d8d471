"""What a sentence of a report states: findings, normal regions, and the attributes of each region."""

from collections.abc import Iterable
from dataclasses import dataclass

from data.ontology import RESOLVED
from data.text.negation import ABSENT, FINDING_KINDS, PRESENT, UNCERTAIN

# Terms that state something by themselves: a finding, or that a place is normal.
STATEMENT_KINDS = FINDING_KINDS | {"normal"}


@dataclass(frozen=True)
class Finding:
    """What a sentence states about one kind of finding.

    name        name in `files/lexicon/findings.yaml`; "abnormality" if the sentence does not say which
    attribute   category|label; None if the attribute vocabulary has no such attribute
    regions     where it is present or absent, including regions outside the 29
    side        "left", "right" or "both" if the sentence states a side; else None
    polarity    "present", "absent" or "uncertain"
    severity    "mild", "moderate", "severe" or None
    change      since an earlier study: one of `data.ontology.CHANGES`, or None
    temporal    "acute", "chronic" or None
    located     False for a one-sided finding without a stated side: it is in one of `regions`
    """

    name: str
    attribute: str | None
    regions: tuple[str, ...]
    side: str | None
    polarity: str
    severity: str | None = None
    change: str | None = None
    temporal: str | None = None
    located: bool = True

    @property
    def attributes(self) -> list[str]:
        """The attributes of its regions as category|polarity|label, including severity, time and side."""
        attributes = []
        if self.attribute is not None:
            category, label = self.attribute.split("|")
            attributes.append(f"{category}|{'no' if self.polarity == ABSENT else 'yes'}|{label}")
        if self.polarity != ABSENT:
            hedge = "hedge" if self.polarity == UNCERTAIN else None
            side = "bilateral" if self.side == "both" else self.side
            cues = ("severity", hedge), ("severity", self.severity), ("temporal", self.temporal), ("laterality", side)
            attributes += [f"{category}|yes|{label}" for category, label in cues if label is not None]
        return attributes


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it states.

    text            as in the report, but in one line
    findings        in order of mention, absent ones included
    normal_regions  the regions that it calls normal
    regions         all regions that it is about
    region_changes  region and change, where it says so without a finding ("the heart is stable")
    """

    text: str
    findings: tuple[Finding, ...]
    normal_regions: tuple[str, ...]
    regions: tuple[str, ...]
    region_changes: tuple[tuple[str, str], ...] = ()

    @property
    def polarity(self) -> str | None:
        """The strongest polarity: present, then uncertain, then absent (or normal); None if it states nothing."""
        polarities = {finding.polarity for finding in self.findings}
        if self.normal_regions:
            polarities.add(ABSENT)
        return next((polarity for polarity in (PRESENT, UNCERTAIN, ABSENT) if polarity in polarities), None)

    @property
    def attributes(self) -> list[str]:
        """All attributes as category|polarity|label: those of its regions, and of findings that it does not locate."""
        attributes = [name for region in self.regions for name in self.attributes_of(region)]
        for finding in self.findings:
            if finding.attribute is not None and not (finding.located and finding.regions):
                attributes += finding.attributes
        return unique(attributes)

    def mentions(self, region: str) -> bool:
        """Whether the sentence is certainly about `region`: not if its only findings there may be on the other side."""
        findings = [finding for finding in self.findings if region in finding.regions]
        return region in self.regions and (not findings or any(finding.located for finding in findings))

    def attributes_of(self, region: str) -> list[str]:
        """Return the attributes that the sentence gives `region`, as category|polarity|label."""
        findings = [finding for finding in self.findings if region in finding.regions and finding.located]
        attributes = [attribute for finding in findings for attribute in finding.attributes]
        if any(finding.polarity != ABSENT for finding in findings):
            attributes.append("nlp|yes|abnormal")
        elif findings or region in self.normal_regions:
            attributes.append("nlp|yes|normal")
        return unique(attributes)

    def changes_of(self, region: str) -> list[str]:
        """Return the changes since an earlier study that the sentence states of `region`.

        What is denied has not changed, unless it was there before: "no new effusion" states nothing.
        """
        found = [
            finding.change
            for finding in self.findings
            if region in finding.regions and finding.located
            and finding.change is not None and (finding.polarity != ABSENT or finding.change == RESOLVED)
        ]
        return unique(found + [change for name, change in self.region_changes if name == region])


def unique(names: Iterable[str]) -> list[str]:
    """Return `names` without repetitions, in order of first occurrence."""
    return list(dict.fromkeys(names))
