"""Labeling reports with the 14 CheXpert observations: 1 present, 0 absent, -1 uncertain, no value if not mentioned.

`files/lexicon/observations.yaml` maps findings to observations.
"""

from dataclasses import dataclass
from functools import cache

from data.ontology import observation_names
from data.text.findings import Finding
from data.text.lexicon import Lexicon, read_lexicon_file
from data.text.negation import ABSENT, PRESENT, UNCERTAIN
from data.text.report_graph import read_report

NO_FINDING, SUPPORT_DEVICES = "No Finding", "Support Devices"
_VALUES = {PRESENT: 1, UNCERTAIN: -1, ABSENT: 0}


def label_report(text: str) -> dict[str, int]:
    """Return the observations that `text` mentions, as observation -> 1, 0 or -1.

    Of several mentions, present wins over uncertain, and uncertain over absent. No Finding is 1 if nothing present or
    uncertain contradicts it; it is never 0 or -1. A text without words mentions nothing.
    """
    rules = _load_rules()
    values: dict[str, set[int]] = {}
    sentences = read_report(text)
    findings = [finding for sentence in sentences for finding in sentence.findings]
    for finding in findings:
        for observation in rules.observations_of(finding):
            values.setdefault(observation, set()).add(_VALUES[finding.polarity])
    if sentences and not any(rules.contradicts_no_finding(finding) for finding in findings):
        values[NO_FINDING] = {1}
    return {
        name: next(value for value in (1, -1, 0) if value in values[name])
        for name in observation_names()
        if name in values
    }


@dataclass(frozen=True)
class _Rules:
    """The rules of `files/lexicon/observations.yaml`.

    observations      name of a finding -> its observations
    not_when_chronic  observations that chronic findings do not count for
    abnormal          names of further findings that contradict No Finding
    """

    observations: dict[str, tuple[str, ...]]
    not_when_chronic: frozenset[str]
    abnormal: frozenset[str]

    def observations_of(self, finding: Finding) -> tuple[str, ...]:
        """Return the observations that `finding` belongs to."""
        names = self.observations.get(finding.name, ())
        if finding.temporal == "chronic":
            return tuple(name for name in names if name not in self.not_when_chronic)
        return names

    def contradicts_no_finding(self, finding: Finding) -> bool:
        """Whether a report with `finding` cannot have No Finding."""
        if finding.polarity == ABSENT:
            return False
        names = self.observations_of(finding)
        return any(name != SUPPORT_DEVICES for name in names) or finding.name in self.abnormal


@cache
def _load_rules() -> _Rules:
    content = read_lexicon_file("observations")
    kinds = Lexicon.load().findings
    observations: dict[str, tuple[str, ...]] = {}
    for observation, findings in content["from findings"].items():
        for finding in findings:
            observations[kinds[finding].name] = (*observations.get(finding, ()), observation)
    abnormal = frozenset(kinds[finding].name for finding in content["against no finding"])
    return _Rules(observations, frozenset(content["not when chronic"]), abnormal)
