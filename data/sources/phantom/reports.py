"""The grammar that writes the reports of phantom studies.

The content of a report follows from the findings and the view: it states the findings and the normal statements that
they call for (a line calls for "no pneumothorax", see `report_rules.py`). Only wording, order, omissions, hedges,
which changes are stated, and remarks about no region in particular are random. So the regions that a report mentions
can be predicted from the image, and cannot be guessed without it.

The phrases are in `files/phantom_phrases.yaml`, the most frequent first.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import numpy
import yaml

from data.ontology import FILES, RESOLVED
from data.sources.phantom.findings import FINDING_KINDS, SIDES, Finding, regions_of
from data.sources.phantom.patient import TRAITS
from data.sources.phantom.patients.history import NO_HISTORY, StudyHistory
from data.sources.phantom.patients.indication import context_phrases
from data.sources.phantom.report_rules import (
    EXTRA_ATTRIBUTES,
    MOVABLE_TOPICS,
    NORMAL_STATEMENTS,
    REMARKS,
    TOPIC_OF_KIND,
    TOPICS,
    NormalStatement,
    circumstances_of,
)

PHRASE_FILE = FILES / "phantom_phrases.yaml"

# Probability of the first phrase of a list. The others share the rest, each `RANK_DECAY` times as likely as the one
# before.
FIRST_PHRASE_PROBABILITY = 0.5
RANK_DECAY = 0.7

FINDING_OMISSION_RATE = 0.03
NORMAL_OMISSION_RATE = 0.05
TOPIC_SWAP_RATE = 0.15
HEDGE_RATE = 0.10
PRIOR_MENTION_RATE = 0.5
NO_PRIOR_MENTION_RATE = 0.2
# Share of findings whose true change is stated; those that are gone included.
TRUE_COMPARISON_RATE = 0.85
# Limit on findings and normal statements together; only normal statements are left out.
MAX_STATEMENTS = 7
# Limit on the statements of an impression.
MAX_IMPRESSION = 3
# From this number of findings and normal statements on, a study with findings has a third of the usual remarks.
LONG_REPORT = 5


@dataclass(frozen=True)
class Sentence:
    """One sentence of a report and what it asserts.

    text        plain ASCII on one line, from its capital letter to its full stop
    regions     names of the regions that it is about (`files/anatomy.yaml`); empty if about none
    attributes  Chest ImaGenome's `category|polarity|label`, true of each of the regions
    abnormal    whether it asserts a finding; false if it denies one or asserts nothing
    severity    "mild", "moderate", "severe", "hedge" for an ungraded finding stated as a possibility, or None
    comparison  the change since the previous study, one of `data.ontology.CHANGES`, or None
    """

    text: str
    regions: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    abnormal: bool = False
    severity: str | None = None
    comparison: str | None = None


@dataclass(frozen=True)
class _Statement:
    """The content of a sentence before it is worded.

    slots   values of the {names} in the phrases, in addition to the file's `words`
    comparison_phrases   one of them is inserted before the full stop
    """

    topic: str
    phrases: Sequence[str]
    slots: Mapping[str, str]
    regions: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    abnormal: bool = False
    severity: str | None = None
    comparison: str | None = None
    comparison_phrases: Sequence[str] = ()


def write_report(
    findings: Sequence[Finding], view: str, rng: numpy.random.Generator, traits: Collection[str] = (),
    history: StudyHistory = NO_HISTORY,
) -> list[Sentence]:
    """Write the report of a study with `findings` in `view` ("PA" or "AP"), as sentences to be joined by spaces.

    Almost every finding is mentioned, each in one sentence; the order of `findings` does not matter. `traits` are the
    `TRAITS` that the image shows. Comparisons say what is true of the `history`; without an earlier study, the report
    compares with nothing. The same arguments and state of `rng` give the same report. Raises ValueError for any other
    view or trait.
    """
    if view not in ("PA", "AP"):
        raise ValueError(f'view "{view}": phantom reports are about "PA" and "AP" views')
    if unknown := set(traits) - set(TRAITS):
        raise ValueError(f"traits {sorted(unknown)}: choose from {', '.join(TRAITS)}")
    kinds = list(FINDING_KINDS)
    findings = sorted(findings, key=lambda f: (kinds.index(f.kind), str(f.side), str(f.place), str(f.severity)))
    statements = [
        _finding_statement(finding, history, rng)
        for finding in findings if rng.random() >= FINDING_OMISSION_RATE
    ]
    statements += [
        _resolved_statement(finding, rng) for finding in history.resolved
        if finding.kind in context_phrases()["resolved"]["names"] and rng.random() < TRUE_COMPARISON_RATE
    ]
    statements += [
        statement for statement in _normal_statements(findings, view) if rng.random() >= NORMAL_OMISSION_RATE
    ]
    topics = _order_topics({statement.topic for statement in statements}, rng)
    statements += _remarks(circumstances_of(findings, view).union(traits), len(statements), rng)
    statements += _prior_remark(history.has_prior, rng)
    statements.sort(key=lambda statement: topics.index(statement.topic))
    return [_realise(statement, rng) for statement in statements]


def write_impression(
    findings: Sequence[Finding], rng: numpy.random.Generator, history: StudyHistory = NO_HISTORY
) -> str:
    """Write the impression: up to `MAX_IMPRESSION` of the most important findings, or a normal result without any.

    It says what has changed and resolved since the earlier study of the `history`, if there is one.
    """
    phrases = context_phrases()["impressions"]
    matters = phrases["of"]
    statements = [
        _impression_statement(finding, history, rng)
        for finding in sorted(findings, key=lambda each: matters.index(each.kind) if each.kind in matters else -1)
        if finding.kind in matters
    ][:MAX_IMPRESSION]
    for finding in history.resolved:
        if finding.kind in matters and finding.kind in context_phrases()["resolved"]["names"]:
            statements.append(_resolved_statement(finding, rng))
    statements = statements[:MAX_IMPRESSION] or [_Statement("impression", phrases["nothing"], {})]
    return " ".join(_realise(statement, rng).text for statement in statements)


# Content


def _impression_statement(
    finding: Finding, history: StudyHistory, rng: numpy.random.Generator
) -> _Statement:
    slots = _place_slots(finding, rng) | _severity_slots(finding, rng)
    name = _fill_template(_load_phrases()["findings"][finding.kind]["name"], slots, rng)
    change = history.changes.get(finding)
    return _Statement(
        "impression", context_phrases()["impressions"]["statements"], {"name": name},
        comparison_phrases=context_phrases()["comparisons"][change] if change else (),
    )


def _severity_slots(finding: Finding, rng: numpy.random.Generator) -> dict[str, str]:
    """Return the words of the finding's grade; empty if it is not graded."""
    if not finding.severity:
        return {}
    phrases = _load_phrases()["severities"]
    grades = phrases.get(finding.kind, phrases["usual"])[finding.severity]
    return {
        name: _choose(grades[kind], rng)
        for name, kind in (("severity", "adjective"), ("severely", "adverb")) if kind in grades
    }


def _place_slots(finding: Finding, rng: numpy.random.Generator) -> dict[str, str]:
    slots: dict[str, str] = {}
    if finding.side:
        slots["side"] = finding.side
    if finding.place:
        slots |= {"place": finding.place, "zone": _choose(_load_phrases()["zones"][finding.place], rng)}
    return slots


def _resolved_statement(finding: Finding, rng: numpy.random.Generator) -> _Statement:
    """Return the statement that a finding of the previous study is gone."""
    phrases = context_phrases()["resolved"]
    category, label = FINDING_KINDS[finding.kind].label.split("|")
    topic = TOPIC_OF_KIND.get(finding.kind, "lungs")
    slots = _place_slots(finding, rng)
    slots["name"] = _fill_template(phrases["names"][finding.kind], slots, rng)
    return _Statement(
        topic, phrases["devices" if topic == "devices" else "phrases"], slots, regions_of(finding),
        (f"{category}|no|{label}",), comparison=RESOLVED,
    )


def _finding_statement(
    finding: Finding, history: StudyHistory, rng: numpy.random.Generator
) -> _Statement:
    phrases = _load_phrases()
    entry = phrases["findings"][finding.kind]
    slots = _place_slots(finding, rng) | _severity_slots(finding, rng)
    hedged = "name" in entry and rng.random() < HEDGE_RATE
    if hedged:
        slots["name"] = _fill_template(entry["name"], slots, rng)
        slots["bare name"] = slots["name"].removeprefix("a ")
    comparison = None
    if history.has_prior and not hedged and rng.random() < TRUE_COMPARISON_RATE:
        comparison = history.changes[finding]
    category, label = FINDING_KINDS[finding.kind].label.split("|")
    return _Statement(
        TOPIC_OF_KIND.get(finding.kind, "lungs"),
        phrases["hedges"] if hedged else entry["phrases"],
        slots,
        regions_of(finding),
        (f"{category}|yes|{label}", *EXTRA_ATTRIBUTES.get(finding.kind, ())),
        abnormal=True,
        severity=finding.severity or ("hedge" if hedged else None),
        comparison=comparison,
        comparison_phrases=context_phrases()["comparisons"][comparison] if comparison else (),
    )


def _normal_statements(findings: Sequence[Finding], view: str) -> list[_Statement]:
    """Return the normal statements that the findings and the view call for; nothing here is random."""
    circumstances = circumstances_of(findings, view)
    affected = {region for finding in findings for region in regions_of(finding)}
    statements = []
    for rule in NORMAL_STATEMENTS:
        regions_by_side = {}
        for side in SIDES:
            if rule.is_triggered(side, findings, circumstances):
                regions = tuple(region.format(side=side) for region in rule.regions)
                regions_by_side[side] = tuple(r for r in regions if not (rule.unaffected_only and r in affected))
        statements += _state_normal(rule, {side: regions for side, regions in regions_by_side.items() if regions})
    return statements[: max(1, MAX_STATEMENTS - len(findings))]


def _state_normal(rule: NormalStatement, regions_by_side: Mapping[str, tuple[str, ...]]) -> list[_Statement]:
    """Return one statement if it is the same for both sides or its regions have no side, otherwise one per side."""
    same_on_both = len({_without_side(regions) for regions in regions_by_side.values()}) == 1 < len(regions_by_side)
    if same_on_both:
        # Regions without a side are the same for both, hence the removal of duplicates.
        regions_by_side = {"both": tuple(dict.fromkeys(r for regions in regions_by_side.values() for r in regions))}
    entry = _load_phrases()["normal statements"][rule.key]
    category, label = rule.denies.split("|")
    statements = []
    for side, regions in regions_by_side.items():
        phrases = entry if isinstance(entry, list) else entry["both sides" if side == "both" else "one side"]
        slots = {"side": side} | (_zone_slots(side, regions) if rule.unaffected_only else {})
        statements.append(_Statement(rule.topic, phrases, slots, regions, (f"{category}|no|{label}",)))
    return statements


def _without_side(regions: Sequence[str]) -> tuple[str, ...]:
    return tuple(region.removeprefix("left ").removeprefix("right ") for region in regions)


def _zone_slots(side: str, regions: Sequence[str]) -> dict[str, str]:
    """Return {zones} ("left upper and mid lung zones", "upper lung zones on both sides") and its verb, {is}."""
    places = list(dict.fromkeys(region.removesuffix(" lung zone") for region in _without_side(regions)))
    listed = places[0] if len(places) == 1 else ", ".join(places[:-1]) + " and " + places[-1]
    plural = len(regions) > 1
    zones = f"{listed} lung zone{'s' if plural else ''}"
    return {
        "zones": f"{zones} on both sides" if side == "both" else f"{side} {zones}",
        "is": "are" if plural else "is",
    }


def _remarks(circumstances: set[str], statement_count: int, rng: numpy.random.Generator) -> list[_Statement]:
    phrases = _load_phrases()["remarks"]
    remarks = []
    for remark in REMARKS:
        probability = remark.probability_when_normal
        if "normal" not in circumstances:
            is_rarer = statement_count >= LONG_REPORT and remark.topic != "technique"
            probability = remark.probability / 3 if is_rarer else remark.probability
        allowed = not remark.when or circumstances & remark.when
        if rng.random() < probability and allowed and not circumstances & remark.unless:
            remarks.append(_Statement(remark.topic, phrases[remark.key], {}))
    return remarks


def _prior_remark(has_prior: bool, rng: numpy.random.Generator) -> list[_Statement]:
    mentioned = rng.random() < (PRIOR_MENTION_RATE if has_prior else NO_PRIOR_MENTION_RATE)
    key = "compared with prior" if has_prior else "no prior"
    return [_Statement("comparison", _load_phrases()["remarks"][key], {})] if mentioned else []


def _order_topics(mentioned: set[str], rng: numpy.random.Generator) -> list[str]:
    """Return `TOPICS`, sometimes with two neighbours among the `mentioned` ones swapped."""
    topics = list(TOPICS)
    movable = [topic for topic in MOVABLE_TOPICS if topic in mentioned]
    if len(movable) > 1 and rng.random() < TOPIC_SWAP_RATE:
        first = int(rng.integers(len(movable) - 1))
        one, other = topics.index(movable[first]), topics.index(movable[first + 1])
        topics[one], topics[other] = topics[other], topics[one]
    return topics


# Wording


def _realise(statement: _Statement, rng: numpy.random.Generator) -> Sentence:
    """Choose a phrase for `statement` and fill it in."""
    template = _choose(statement.phrases, rng)
    if statement.comparison_phrases:
        template = template.removesuffix(".") + _choose(statement.comparison_phrases, rng) + "."
    text = _fill_template(template, statement.slots, rng)
    return Sentence(
        text[0].upper() + text[1:], statement.regions, statement.attributes, statement.abnormal, statement.severity,
        statement.comparison,
    )


def _fill_template(template: str, slots: Mapping[str, str], rng: numpy.random.Generator) -> str:
    """Replace every [a|b] in `template` by one of its options and every {name} by its value."""
    words = _load_phrases()["words"]

    def fill_slot(match: re.Match[str]) -> str:
        name = match[1]
        if name not in slots and name not in words:
            raise ValueError(f'{PHRASE_FILE.name}: "{template}" uses {{{name}}}, neither a slot nor one of `words`')
        return slots[name] if name in slots else _choose(words[name], rng)

    text = re.sub(r"\[([^\[\]]*)\]", lambda match: _choose(match[1].split("|"), rng), template)
    text = re.sub(r"\{([^{}]*)\}", fill_slot, text)
    text = re.sub(r" +([.,])", r"\1", re.sub(r"  +", " ", text))
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _choose(options: Sequence[str], rng: numpy.random.Generator) -> str:
    """Draw one of `options`, the first being the most likely."""
    return options[bisect_right(_cumulative_probabilities(len(options)), rng.random())]


@cache
def _cumulative_probabilities(options: int) -> list[float]:
    """Return the cumulative probabilities of all options but the last."""
    if options == 1:
        return []
    weights = [RANK_DECAY**rank for rank in range(options - 1)]
    probabilities = [FIRST_PHRASE_PROBABILITY if options > 2 else 1 - FIRST_PHRASE_PROBABILITY]
    probabilities += [(1 - FIRST_PHRASE_PROBABILITY) * weight / sum(weights) for weight in weights]
    return list(accumulate(probabilities))[:-1]


@cache
def _load_phrases() -> dict[str, Any]:
    return yaml.safe_load(PHRASE_FILE.read_text(encoding="ascii"))
