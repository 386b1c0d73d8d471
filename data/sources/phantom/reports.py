"""The grammar that puts a phantom's findings into words.

What a report says follows from the findings and the view: the findings themselves, and normal statements that a
radiologist would add because of them (a line calls for "no pneumothorax"). Only the wording, the order, omissions,
hedges, comparisons and remarks about no region in particular are left to chance. So the regions that a report
mentions can be told from the image, and cannot be guessed without it.

The phrases stand in `files/phantom_phrases.yaml`, the commonest first.
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

from data.ontology import FILES
from data.sources.phantom.findings import FINDING_KINDS, SIDES, Finding, regions_of

PHRASE_FILE = FILES / "phantom_phrases.yaml"

TOPICS = (
    "technique", "comparison", "lungs", "pleura", "heart", "mediastinum", "diaphragm", "bones", "devices", "impression",
)
MOVABLE_TOPICS = TOPICS[2:-1]

TOPIC_OF_KIND = {
    "pleural effusion": "pleura", "pneumothorax": "pleura", "cardiomegaly": "heart",
    "widened mediastinum": "mediastinum", "tortuous aorta": "mediastinum", "calcified aorta": "mediastinum",
    "raised hemidiaphragm": "diaphragm", "rib fracture": "bones", "scoliosis": "bones",
    "pacemaker": "devices", "central line": "devices", "endotracheal tube": "devices",
}

# What Chest ImaGenome adds to a finding's own label: the parent finding, or the texture that its phrases name.
FURTHER_ATTRIBUTES = {
    "consolidation": ("anatomicalfinding|yes|lung opacity",),
    "patchy atelectasis": ("anatomicalfinding|yes|lung opacity",),
    "edema": ("texture|yes|interstitial",),
    "calcified aorta": ("texture|yes|calcified",),
}

# How a finding may compare with a previous study. What heals or spreads may do all three; the rest only stays.
_ONLY_UNCHANGED = ("no change",)
_MAY_GROW = ("no change", "worsened")
_MAY_CHANGE = ("no change", "worsened", "improved")
COMPARISONS_OF_KIND = {
    "pleural effusion": _MAY_CHANGE, "pneumothorax": _MAY_CHANGE, "consolidation": _MAY_CHANGE,
    "patchy atelectasis": _MAY_CHANGE, "linear atelectasis": _MAY_CHANGE, "edema": _MAY_CHANGE,
    "cardiomegaly": _MAY_GROW, "widened mediastinum": _MAY_GROW, "nodule": _MAY_GROW, "mass": _MAY_GROW,
}

# The first phrase of a list is used this often; the others share the rest, each a bit less often than the one before.
COMMONEST = 0.5
RARER = 0.7

FINDING_OMITTED = 0.03
NORMAL_STATEMENT_OMITTED = 0.05
TOPICS_SWAPPED = 0.15
HEDGED = 0.10
HAS_PRIOR = 0.45
PRIOR_STATED = 0.5
LACK_OF_PRIOR_STATED = 0.2
COMPARED_WITH_PRIOR = 0.4
# Findings and normal statements together; findings are never left out for it.
MOST_STATEMENTS = 7
# With so many findings and normal statements, a study with findings gets its remarks at a third of their chance.
LONG_REPORT = 5


@dataclass(frozen=True)
class Sentence:
    """One sentence of a report and what it asserts.

    text        plain ASCII on one line, from its capital to its full stop
    regions     names of the regions that it speaks of (`files/anatomy.yaml`); empty when it is about none of them
    attributes  Chest ImaGenome's `category|polarity|label`, held by each of the regions
    abnormal    it asserts a finding; a sentence that denies one, or asserts nothing, does not
    severity    "mild", "moderate", "severe", "hedge" for an ungraded finding put as a possibility, or None
    comparison  "no change", "worsened" or "improved" against the previous study, or None
    """

    text: str
    regions: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    abnormal: bool = False
    severity: str | None = None
    comparison: str | None = None


@dataclass(frozen=True)
class _NormalStatement:
    """A statement that regions are free of something, and the circumstances that call for it.

    Where its regions have a side the statement is made for each side by itself, or for both in one sentence. For the
    circumstances see `_circumstances`.

    regions     {side} is filled with the side that the statement is about
    denies      Chest ImaGenome's `category|label`
    after       circumstances that call for it (on either side)
    after_same, after_other   kinds whose findings call for it on their own side, or on the other one
    unless      kinds that forbid it; of a statement about one side, unless they are on the other side only
    untouched   it is made for those regions only that no finding touches, which the phrase lists as {zones}
    """

    key: str
    topic: str
    regions: tuple[str, ...]
    denies: str
    after: frozenset[str] = frozenset()
    after_same: frozenset[str] = frozenset()
    after_other: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    untouched: bool = False


# A report with no other kind than these, which are easily missed, goes through the routine of a normal one. So a
# reader of the image who misses them is still right about most of what the report says.
MINOR_KINDS = frozenset({
    "nodule", "linear atelectasis", "rib fracture", "tortuous aorta", "calcified aorta", "central line",
    "endotracheal tube",
})

NORMAL_STATEMENTS = (
    _NormalStatement(
        "zones clear", "lungs", ("{side} upper lung zone", "{side} mid lung zone", "{side} lower lung zone"),
        "anatomicalfinding|lung opacity", after=frozenset({"low lung volumes"}),
        after_same=frozenset({"consolidation", "patchy atelectasis", "mass", "pleural effusion"}),
        unless=frozenset({"edema"}), untouched=True),
    _NormalStatement(
        "no bullae", "lungs", ("{side} apical zone", "{side} upper lung zone"), "anatomicalfinding|cyst/bullae",
        after=frozenset({"hyperinflation"}), unless=frozenset({"pneumothorax"})),
    _NormalStatement(
        "no pneumothorax", "pleura", ("{side} apical zone",), "anatomicalfinding|pneumothorax",
        after=frozenset({"pacemaker", "central line", "endotracheal tube"}),
        after_other=frozenset({"pneumothorax"}), unless=frozenset({"pneumothorax"})),
    _NormalStatement(
        "no effusion", "pleura", ("{side} costophrenic angle",), "anatomicalfinding|pleural effusion",
        after=frozenset({"routine"}), after_other=frozenset({"pleural effusion"}),
        unless=frozenset({"pleural effusion"})),
    _NormalStatement(
        "heart normal", "heart", ("cardiac silhouette",), "anatomicalfinding|enlarged cardiac silhouette",
        after=frozenset({"routine"}), unless=frozenset({"cardiomegaly"})),
    _NormalStatement(
        "no congestion", "heart", ("left hilar structures", "right hilar structures"),
        "anatomicalfinding|vascular congestion",
        after=frozenset({"cardiomegaly", "low lung volumes"}), unless=frozenset({"edema"})),
    _NormalStatement(
        "veins not distended", "heart", ("svc", "right atrium"), "anatomicalfinding|vascular congestion",
        after=frozenset({"cardiomegaly", "edema"})),
    _NormalStatement(
        "no adenopathy", "mediastinum", ("left hilar structures", "right hilar structures"),
        "anatomicalfinding|enlarged hilum", after=frozenset({"mass"})),
    _NormalStatement(
        "no widening", "mediastinum", ("upper mediastinum", "mediastinum"), "anatomicalfinding|mediastinal widening",
        after=frozenset({"pneumothorax", "scoliosis", "consolidation"}), unless=frozenset({"widened mediastinum"})),
    _NormalStatement(
        "airway midline", "mediastinum", ("trachea", "carina"), "anatomicalfinding|mediastinal displacement",
        after=frozenset({"routine", "widened mediastinum"}), unless=frozenset({"endotracheal tube"})),
    _NormalStatement(
        "aorta normal", "mediastinum", ("aortic arch",), "anatomicalfinding|tortuous aorta",
        after=frozenset({"cardiomegaly", "widened mediastinum"}),
        unless=frozenset({"tortuous aorta", "calcified aorta"})),
    _NormalStatement(
        "diaphragm normal", "diaphragm", ("{side} hemidiaphragm",), "anatomicalfinding|elevated hemidiaphragm",
        after=frozenset({"low lung volumes"}), after_same=frozenset({"patchy atelectasis"}),
        after_other=frozenset({"raised hemidiaphragm"}), unless=frozenset({"raised hemidiaphragm", "hyperinflation"})),
    _NormalStatement(
        "no free air", "diaphragm", ("abdomen",), "anatomicalfinding|sub-diaphragmatic air",
        after=frozenset({"raised hemidiaphragm", "low lung volumes", "hyperinflation", "routine PA"})),
    _NormalStatement(
        "clavicles intact", "bones", ("left clavicle", "right clavicle"), "anatomicalfinding|clavicle fracture",
        after=frozenset({"routine", "scoliosis"})),
    _NormalStatement(
        "spine intact", "bones", ("spine",), "anatomicalfinding|spinal fracture",
        after=frozenset({"pneumothorax", "hyperinflation", "widened mediastinum"})),
    _NormalStatement(
        "no venous line", "devices", ("cavoatrial junction",), "tubesandlines|ij line",
        after=frozenset({"pacemaker", "endotracheal tube", "edema"}), unless=frozenset({"central line"})),
    _NormalStatement(
        "bases clear", "lungs", ("{side} lower lung zone",), "anatomicalfinding|lung opacity",
        after=frozenset({"routine AP"}), untouched=True),
)


@dataclass(frozen=True)
class _Remark:
    """A statement about no region in particular, made by chance.

    chance, chance_when_normal   in a study with findings, and in one without
    after    circumstances that allow it, any of them; empty for all
    unless   circumstances that forbid it
    """

    key: str
    topic: str
    chance: float
    chance_when_normal: float
    after: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()


_DEVICES = frozenset({"pacemaker", "central line", "endotracheal tube"})

# What a picture may show beside findings. A remark is made of each, whatever the findings are.
TRAITS = ("rotated", "tilted", "thick chest wall", "breast shadows", "stomach bubble")

REMARKS = (
    _Remark("indication", "technique", 0.10, 0.10),
    _Remark("technique PA", "technique", 0.85, 0.85, after=frozenset({"PA"})),
    _Remark("technique AP", "technique", 0.85, 0.85, after=frozenset({"AP"})),
    _Remark("quality", "technique", 0.10, 0.20, unless=frozenset({"low lung volumes"})),
    _Remark("rotated", "technique", 0.90, 0.90, after=frozenset({"rotated"})),
    _Remark("tilted", "technique", 0.90, 0.90, after=frozenset({"tilted"})),
    _Remark("thick chest wall", "technique", 0.90, 0.90, after=frozenset({"thick chest wall"})),
    _Remark("breast shadows", "technique", 0.90, 0.90, after=frozenset({"breast shadows"})),
    _Remark("stomach bubble", "technique", 0.90, 0.90, after=frozenset({"stomach bubble"})),
    _Remark("no airspace disease", "lungs", 0.0, 0.75),
    _Remark("bones normal", "bones", 0.10, 0.35, unless=frozenset({"rib fracture", "scoliosis"})),
    _Remark("soft tissues normal", "bones", 0.08, 0.25),
    _Remark("no devices", "devices", 0.06, 0.20, unless=_DEVICES),
    _Remark("nothing acute", "impression", 0.0, 0.80),
    _Remark("nothing else", "impression", 0.30, 0.0),
    _Remark("follow up", "impression", 0.60, 0.0, after=frozenset({"nodule", "mass"})),
    _Remark("correlate", "impression", 0.10, 0.0),
)


@dataclass(frozen=True)
class _Statement:
    """What a report is going to say: a sentence that is not worded yet.

    slots   what fills the {names} in the phrases, beside the file's `words`
    """

    topic: str
    phrases: Sequence[str]
    slots: Mapping[str, str]
    regions: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    abnormal: bool = False
    severity: str | None = None
    comparison: str | None = None


def write_report(
    findings: Sequence[Finding], view: str, rng: numpy.random.Generator, traits: Collection[str] = ()
) -> list[Sentence]:
    """The report on a study with `findings`, taken in `view` ("PA" or "AP"): sentences, to be joined by spaces.

    Nearly every finding is mentioned, each in one sentence; their order in `findings` does not matter. `traits` are
    those of `TRAITS` that the picture shows. The same findings, view, traits and state of `rng` give the same report.
    Raises ValueError for another view or trait.
    """
    if view not in ("PA", "AP"):
        raise ValueError(f'view "{view}": a phantom report knows "PA" and "AP"')
    if unknown := set(traits) - set(TRAITS):
        raise ValueError(f"traits {sorted(unknown)}: a phantom report knows {', '.join(TRAITS)}")
    kinds = list(FINDING_KINDS)
    findings = sorted(findings, key=lambda f: (kinds.index(f.kind), str(f.side), str(f.place), str(f.severity)))
    has_prior = rng.random() < HAS_PRIOR
    told = [_say_finding(finding, has_prior, rng) for finding in findings if rng.random() >= FINDING_OMITTED]
    told += [said for said in _normal_statements(findings, view) if rng.random() >= NORMAL_STATEMENT_OMITTED]
    topics = _order_topics({statement.topic for statement in told}, rng)
    told += _remarks(_circumstances(findings, view).union(traits), len(told), rng)
    told += _remark_on_prior(has_prior, rng)
    return [_word(statement, rng) for statement in sorted(told, key=lambda statement: topics.index(statement.topic))]


def _circumstances(findings: Sequence[Finding], view: str) -> set[str]:
    """What decides which statements a report makes.

    The kinds of finding and the view; "routine", and "routine PA" or "routine AP", if all findings are of
    `MINOR_KINDS`; "normal" if there is none.
    """
    circumstances = {finding.kind for finding in findings}
    if circumstances <= MINOR_KINDS:
        circumstances |= {"routine", f"routine {view}"}
    return circumstances | {view} | (set() if findings else {"normal"})


def _say_finding(finding: Finding, has_prior: bool, rng: numpy.random.Generator) -> _Statement:
    file = _phrase_file()
    entry = file["findings"][finding.kind]
    slots: dict[str, str] = {}
    if finding.side:
        slots["side"] = finding.side
    if finding.place:
        slots |= {"place": finding.place, "zone": _choose(file["zones"][finding.place], rng)}
    if finding.severity:
        grades = file["severities"].get(finding.kind, file["severities"]["usual"])[finding.severity]
        slots["severity"] = _choose(grades["adjective"], rng)
        if "adverb" in grades:
            slots["severely"] = _choose(grades["adverb"], rng)
    hedged = "name" in entry and rng.random() < HEDGED
    if hedged:
        slots["name"] = _fill(entry["name"], slots, rng)
        slots["bare name"] = slots["name"].removeprefix("a ")
    comparison = None
    if has_prior and not hedged and rng.random() < COMPARED_WITH_PRIOR:
        comparison = _choose(COMPARISONS_OF_KIND.get(finding.kind, _ONLY_UNCHANGED), rng)
    category, label = FINDING_KINDS[finding.kind].label.split("|")
    return _Statement(
        TOPIC_OF_KIND.get(finding.kind, "lungs"),
        file["hedges"] if hedged else entry["phrases"],
        slots,
        regions_of(finding),
        (f"{category}|yes|{label}", *FURTHER_ATTRIBUTES.get(finding.kind, ())),
        abnormal=True,
        severity=finding.severity or ("hedge" if hedged else None),
        comparison=comparison,
    )


def _normal_statements(findings: Sequence[Finding], view: str) -> list[_Statement]:
    """The normal statements that the findings and the view call for; nothing here is left to chance."""
    circumstances = _circumstances(findings, view)
    touched = {region for finding in findings for region in regions_of(finding)}
    statements = []
    for normal in NORMAL_STATEMENTS:
        regions_by_side = {}
        for side in SIDES:
            if _called_for(normal, side, findings, circumstances):
                regions = tuple(region.format(side=side) for region in normal.regions)
                regions_by_side[side] = tuple(r for r in regions if not (normal.untouched and r in touched))
        statements += _say_normal(normal, {side: regions for side, regions in regions_by_side.items() if regions})
    return statements[: max(1, MOST_STATEMENTS - len(findings))]


def _called_for(normal: _NormalStatement, side: str, findings: Sequence[Finding], circumstances: set[str]) -> bool:
    other_side = SIDES[1 - SIDES.index(side)]
    here = {finding.kind for finding in findings if finding.side == side}
    there = {finding.kind for finding in findings if finding.side == other_side}
    forbidding = {finding.kind for finding in findings}
    if _has_side(normal):
        forbidding -= there - here
    called = circumstances & normal.after or here & normal.after_same or there & normal.after_other
    return bool(called) and not forbidding & normal.unless


def _has_side(normal: _NormalStatement) -> bool:
    return any("{side}" in region for region in normal.regions)


def _say_normal(normal: _NormalStatement, regions_by_side: Mapping[str, tuple[str, ...]]) -> list[_Statement]:
    """One statement where the same is said of both sides, or of regions without a side; else one for each side."""
    same_on_both = len({_without_side(regions) for regions in regions_by_side.values()}) == 1 < len(regions_by_side)
    if same_on_both:
        # The two tuples are equal where the regions have no side.
        regions_by_side = {"both": tuple(dict.fromkeys(r for regions in regions_by_side.values() for r in regions))}
    entry = _phrase_file()["normal statements"][normal.key]
    category, label = normal.denies.split("|")
    statements = []
    for side, regions in regions_by_side.items():
        phrases = entry if isinstance(entry, list) else entry["both sides" if side == "both" else "one side"]
        slots = {"side": side} | (_zone_slots(side, regions) if normal.untouched else {})
        statements.append(_Statement(normal.topic, phrases, slots, regions, (f"{category}|no|{label}",)))
    return statements


def _without_side(regions: Sequence[str]) -> tuple[str, ...]:
    return tuple(region.removeprefix("left ").removeprefix("right ") for region in regions)


def _zone_slots(side: str, regions: Sequence[str]) -> dict[str, str]:
    """ "left upper and mid lung zones" or "upper lung zones on both sides", and the verb for it."""
    places = list(dict.fromkeys(region.removesuffix(" lung zone") for region in _without_side(regions)))
    listed = places[0] if len(places) == 1 else ", ".join(places[:-1]) + " and " + places[-1]
    several = len(regions) > 1
    zones = f"{listed} lung zone{'s' if several else ''}"
    return {
        "zones": f"{zones} on both sides" if side == "both" else f"{side} {zones}",
        "is": "are" if several else "is",
    }


def _remarks(circumstances: set[str], told: int, rng: numpy.random.Generator) -> list[_Statement]:
    phrases = _phrase_file()["remarks"]
    remarks = []
    for remark in REMARKS:
        chance = remark.chance_when_normal
        if "normal" not in circumstances:
            chance = remark.chance / 3 if told >= LONG_REPORT and remark.topic != "technique" else remark.chance
        allowed = not remark.after or circumstances & remark.after
        if rng.random() < chance and allowed and not circumstances & remark.unless:
            remarks.append(_Statement(remark.topic, phrases[remark.key], {}))
    return remarks


def _remark_on_prior(has_prior: bool, rng: numpy.random.Generator) -> list[_Statement]:
    stated = rng.random() < (PRIOR_STATED if has_prior else LACK_OF_PRIOR_STATED)
    key = "compared with prior" if has_prior else "no prior"
    return [_Statement("comparison", _phrase_file()["remarks"][key], {})] if stated else []


def _order_topics(told: set[str], rng: numpy.random.Generator) -> list[str]:
    """`TOPICS`, now and then with two neighbours among those that the report speaks of swapped."""
    topics = list(TOPICS)
    movable = [topic for topic in MOVABLE_TOPICS if topic in told]
    if len(movable) > 1 and rng.random() < TOPICS_SWAPPED:
        first = int(rng.integers(len(movable) - 1))
        one, other = topics.index(movable[first]), topics.index(movable[first + 1])
        topics[one], topics[other] = topics[other], topics[one]
    return topics


def _word(statement: _Statement, rng: numpy.random.Generator) -> Sentence:
    template = _choose(statement.phrases, rng)
    if statement.comparison:
        template = template.removesuffix(".") + _choose(_phrase_file()["comparisons"][statement.comparison], rng) + "."
    text = _fill(template, statement.slots, rng)
    return Sentence(
        text[0].upper() + text[1:], statement.regions, statement.attributes, statement.abnormal, statement.severity,
        statement.comparison,
    )


def _fill(template: str, slots: Mapping[str, str], rng: numpy.random.Generator) -> str:
    """`template` with every [a|b] decided and every {name} filled."""
    words = _phrase_file()["words"]

    def fill_slot(match: re.Match[str]) -> str:
        name = match[1]
        if name not in slots and name not in words:
            raise ValueError(f'{PHRASE_FILE.name}: "{template}" uses {{{name}}}, which is neither in `words` nor given')
        return slots[name] if name in slots else _choose(words[name], rng)

    text = re.sub(r"\[([^\[\]]*)\]", lambda match: _choose(match[1].split("|"), rng), template)
    text = re.sub(r"\{([^{}]*)\}", fill_slot, text)
    text = re.sub(r" +([.,])", r"\1", re.sub(r"  +", " ", text))
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _choose(options: Sequence[str], rng: numpy.random.Generator) -> str:
    return options[bisect_right(_cumulative_chances(len(options)), rng.random())]


@cache
def _cumulative_chances(options: int) -> list[float]:
    """The upper bounds of the first `options - 1` shares of 0..1; the last option has what remains."""
    if options == 1:
        return []
    rest = [RARER**rank for rank in range(options - 1)]
    shares = [COMMONEST if options > 2 else 1 - COMMONEST] + [(1 - COMMONEST) * share / sum(rest) for share in rest]
    return list(accumulate(shares))[:-1]


@cache
def _phrase_file() -> dict[str, Any]:
    return yaml.safe_load(PHRASE_FILE.read_text(encoding="ascii"))
