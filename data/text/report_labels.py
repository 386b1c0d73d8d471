"""The 14 observations that the text of a report mentions.

Values are CheXpert's: 1 present, 0 absent, -1 uncertain; an observation that the report does not mention has no value.
`files/lexicon/observations.yaml` says which findings make which observation.
"""

from dataclasses import dataclass
from functools import cache

from data.ontology import observation_names
from data.text.lexicon import Lexicon, read_lexicon_file
from data.text.negation import ABSENT, PRESENT, UNCERTAIN
from data.text.report_graph import Finding, read_report

NO_FINDING, SUPPORT_DEVICES = "No Finding", "Support Devices"
_VALUES = {PRESENT: 1, UNCERTAIN: -1, ABSENT: 0}


def label_report(text: str) -> dict[str, int]:
    """Observation -> 1, 0 or -1, for those that `text` mentions.

    Of several mentions, present wins over uncertain, and uncertain over absent. No Finding is 1 where the report has
    nothing present or uncertain that speaks against it; it is never 0 or -1. A text without words mentions nothing.
    """
    rules = _rules()
    values: dict[str, set[int]] = {}
    sentences = read_report(text)
    findings = [finding for sentence in sentences for finding in sentence.findings]
    for finding in findings:
        for observation in rules.observations_of(finding):
            values.setdefault(observation, set()).add(_VALUES[finding.polarity])
    if sentences and not any(rules.against_no_finding(finding) for finding in findings):
        values[NO_FINDING] = {1}
    strongest = {name: next(value for value in (1, -1, 0) if value in found) for name, found in values.items()}
    return {name: strongest[name] for name in observation_names() if name in strongest}


@dataclass(frozen=True)
class _Rules:
    """What `files/lexicon/observations.yaml` says; the findings by name."""

    by_finding: dict[str, tuple[str, ...]]
    not_when_chronic: frozenset[str]
    others_against: frozenset[str]

    def observations_of(self, finding: Finding) -> tuple[str, ...]:
        """The observations that `finding` is about."""
        names = self.by_finding.get(finding.name, ())
        if finding.temporal == "chronic":
            return tuple(name for name in names if name not in self.not_when_chronic)
        return names

    def against_no_finding(self, finding: Finding) -> bool:
        """Whether No Finding does not hold beside `finding`."""
        if finding.polarity == ABSENT:
            return False
        names = self.observations_of(finding)
        return any(name != SUPPORT_DEVICES for name in names) or finding.name in self.others_against


@cache
def _rules() -> _Rules:
    content = read_lexicon_file("observations")
    known = Lexicon.load().findings
    by_finding: dict[str, tuple[str, ...]] = {}
    for observation, findings in content["from findings"].items():
        for finding in findings:
            by_finding[known[finding].name] = (*by_finding.get(finding, ()), observation)
    others = frozenset(known[finding].name for finding in content["against no finding"])
    return _Rules(by_finding, frozenset(content["not when chronic"]), others)
