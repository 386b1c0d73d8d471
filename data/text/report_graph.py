"""Report text to the scene graph that it describes.

A report is split into sentences (`data/text/sentences.py`). The lexicon (`data/text/lexicon.py`) finds the places,
findings and cues in a sentence, the cues decide what is affirmed and what is denied (`data/text/negation.py`), and in
every clause a place belongs to the nearest finding that can occur there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from data.ontology import Anatomy
from data.text.lexicon import FindingKind, Lexicon, Mention, Place
from data.text.negation import ABSENT, FINDING_KINDS, HYPOTHETICAL, PRESENT, UNCERTAIN, polarities
from data.text.sentences import sentences

_STATEMENTS = FINDING_KINDS | {"normal"}
# How many words an article, a side and adjectives take between "overlying" or "in" and its place.
_PLACE_REACH = 3
# How many words away a cue can stand from the finding that it describes.
_REACH = {"severity": 5, "comparison": 12, "temporal": 12}


@dataclass(frozen=True)
class Finding:
    """What a sentence says about one kind of finding.

    name        of `files/lexicon/findings.yaml`; "abnormality" for what is only called abnormal
    attribute   category|label; None for what the attribute vocabulary lacks
    regions     where it is, or is denied; among them may be regions outside the 29
    side        "left", "right" or "both" where the sentence says so
    polarity    "present", "absent" or "uncertain"
    severity    "mild", "moderate", "severe" or None
    comparison  with an earlier examination: "improved", "worsened", "no change" or None
    temporal    "acute", "chronic" or None
    located     False for a one-sided finding of which the sentence leaves the side open: then it is in one of `regions`
    """

    name: str
    attribute: str | None
    regions: tuple[str, ...]
    side: str | None
    polarity: str
    severity: str | None = None
    comparison: str | None = None
    temporal: str | None = None
    located: bool = True


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it says.

    text      as it stands in the report, in one line
    findings  in the order of their words, denied ones included
    normal    the regions that it calls normal
    regions   all regions that it is about
    """

    text: str
    findings: tuple[Finding, ...]
    normal: tuple[str, ...]
    regions: tuple[str, ...]

    @property
    def polarity(self) -> str | None:
        """Its strongest: present, then uncertain, then absent (also if it calls a region normal); None without any."""
        found = {finding.polarity for finding in self.findings}
        if self.normal:
            found.add(ABSENT)
        return next((polarity for polarity in (PRESENT, UNCERTAIN, ABSENT) if polarity in found), None)

    @property
    def attributes(self) -> list[str]:
        """category|polarity|label of all that it says about any region."""
        return _distinct(name for region in self.regions for name in self.attributes_of(region))

    def mentions(self, region: str) -> bool:
        """Whether it is surely about `region`, and not about a finding that may be on the other side."""
        findings = [finding for finding in self.findings if region in finding.regions]
        return region in self.regions and (not findings or any(finding.located for finding in findings))

    def attributes_of(self, region: str) -> list[str]:
        """category|polarity|label of what it says about `region`, cues of severity, time and side included."""
        findings = [finding for finding in self.findings if region in finding.regions and finding.located]
        attributes = [attribute for finding in findings for attribute in _attributes(finding)]
        if any(finding.polarity != ABSENT for finding in findings):
            attributes.append("nlp|yes|abnormal")
        elif findings or region in self.normal:
            attributes.append("nlp|yes|normal")
        return _distinct(attributes)


def read_report(text: str) -> list[Sentence]:
    """What the sentences of a report say, in order. Those without a word are left out, and parts about the patient's
    history, comparisons and technique."""
    return [replace(_read_sentence(tuple(words)), text=line) for line, words in sentences(text)]


def scene_graph(report: Sequence[Sentence]) -> dict:
    """A record's graph from the sentences of a report: {"regions": {name: ...}} with all 29 regions, every box null.

    Of conflicting polarities the last mention wins; a region is abnormal if any sentence calls it so. Beside a record's
    keys, each region has its `phrases`: the sentences about it.
    """
    return {"regions": {name: _region(name, report) for name in Anatomy.load().names}}


def groups() -> dict[str, str]:
    """Region, of the 29 and of those without a box, -> "lung", "heart", "mediastinal" or "bone"."""
    return Lexicon.load().groups


def _region(name: str, report: Sequence[Sentence]) -> dict:
    """What a graph says about one region."""
    said = [(sentence.text, sentence.attributes_of(name)) for sentence in report if sentence.mentions(name)]
    labels: dict[tuple[str, str], str] = {}
    for attribute in (attribute for _, attributes in said for attribute in attributes):
        category, polarity, label = attribute.split("|")
        labels[category, label] = polarity
    return {
        "box": None,
        "mentioned": bool(said),
        "abnormal": any("nlp|yes|abnormal" in attributes for _, attributes in said),
        "attributes": [f"{category}|{polarity}|{label}" for (category, label), polarity in labels.items()],
        "phrases": [text for text, _ in said],
    }


def _attributes(finding: Finding) -> list[str]:
    """The attributes that one finding gives its regions."""
    attributes = []
    if finding.attribute is not None:
        category, label = finding.attribute.split("|")
        attributes.append(f"{category}|{'no' if finding.polarity == ABSENT else 'yes'}|{label}")
    if finding.polarity != ABSENT:
        hedge = "hedge" if finding.polarity == UNCERTAIN else None
        side = "bilateral" if finding.side == "both" else finding.side
        cues = ("severity", hedge), ("severity", finding.severity), ("temporal", finding.temporal), ("laterality", side)
        attributes += [f"{category}|yes|{label}" for category, label in cues if label is not None]
    return attributes


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


# Sentences


@lru_cache(maxsize=1 << 16)
def _read_sentence(words: tuple[str, ...]) -> Sentence:
    """What the words of a sentence say; its text is left empty. Reports repeat their sentences, hence the cache."""
    lexicon = Lexicon.load()
    mentions = lexicon.find(lexicon.with_every_noun(words))
    reader = _SentenceReader(lexicon, polarities(mentions))
    for clause in _clauses(mentions):
        reader.read(clause)
    return reader.sentence()


def _clauses(mentions: Sequence[Mention]) -> list[list[Mention]]:
    """The mentions, apart at commas and at words that end a scope; a part that states nothing joins its neighbour."""
    parts: list[list[Mention]] = [[]]
    for mention in mentions:
        if mention.kind in ("comma", "scope ends") and _states(parts[-1]):
            parts.append([])
        parts[-1].append(mention)
    clauses = parts[:1]
    for part in parts[1:]:
        if _states(part):
            clauses.append(part)
        else:
            clauses[-1].extend(part)
    return clauses


def _states(clause: Sequence[Mention]) -> bool:
    """Whether a clause says something of its own: "stable mediastinum" does, "stable" does not."""
    kinds = {mention.kind for mention in clause}
    return not kinds.isdisjoint(_STATEMENTS) or {"place", "comparison"} <= kinds


@dataclass(frozen=True)
class _Located:
    """A finding with the places that were named for it."""

    finding: Finding
    kind: FindingKind
    places: tuple[Place, ...]

    def lends_to(self, other: "_Located") -> bool:
        """Whether `other`, for which nothing was named, can be taken to lie where this one does."""
        if self.finding.polarity == ABSENT:
            return False
        if self.places or self.finding.side is not None:
            return any(other.kind.may_lie_in(place) for place in self.places or self.kind.places)
        return any(place.name in other.kind.also for place in self.kind.places)


class _SentenceReader:
    """Reads the clauses of a sentence, one after the other."""

    def __init__(self, lexicon: Lexicon, polarity: dict[Mention, str]):
        self._lexicon = lexicon
        self._polarity = polarity
        self._located: list[_Located] = []
        self._denied: list[Finding] = []
        self._normal: list[str] = []
        self._named: list[str] = []

    def sentence(self) -> Sentence:
        """What the clauses read so far say together."""
        findings = (*self._denied, *(located.finding for located in self._located))
        regions = [region for finding in findings for region in finding.regions] + self._normal + self._named
        return Sentence("", findings, tuple(_distinct(self._normal)), tuple(_distinct(regions)))

    def read(self, clause: Sequence[Mention]) -> None:
        """Take in the next clause."""
        sides = [mention for mention in clause if mention.kind == "side"]
        places = self._places_by_statement(clause, sides)
        # Of a sentence "calcified ..., stable nodule" both words describe one thing.
        affirmed = [mention.name for mention in places if self._polarity.get(mention, ABSENT) != ABSENT]
        found = []
        for statement, named in places.items():
            if statement.kind == "normal":
                self._read_normal(named)
                continue
            for name, there in self._names(statement, named, affirmed).items():
                found.append(self._locate(self._lexicon.findings[name], statement, there, sides, clause))
        before = self._located[-1:]
        for located in found:
            others = [other for other in found if other is not located] + before
            self._located.append(self._borrow_place(located, others))

    def _places_by_statement(
        self, clause: Sequence[Mention], sides: Sequence[Mention]
    ) -> dict[Mention, list[tuple[Place, str | None]]]:
        """Every statement of the clause with the places, and their sides, that are nearer to it than to any other that
        they can belong to. Places that belong to none are only named."""
        places: dict[Mention, list[tuple[Place, str | None]]] = {
            each: [] for each in clause if each.kind in _STATEMENTS and self._polarity.get(each) != HYPOTHETICAL
        }
        landmark_until = locative_until = -1
        for mention in clause:
            if mention.kind == "landmark word":
                landmark_until = mention.end + _PLACE_REACH
            elif mention.kind == "locative word":
                locative_until = mention.end + _PLACE_REACH
            elif mention.kind in _STATEMENTS:
                landmark_until = locative_until = -1
            elif mention.kind == "place":
                place, landmark = self._lexicon.places[mention.name], mention.start < landmark_until
                side = place.side or _nearest_side(sides, mention)
                takers = [statement for statement in places if self._takes(statement, place, landmark)]
                if mention.start < locative_until:
                    takers = [taker for taker in takers if taker.end <= mention.start] or takers
                if takers:
                    nearest = min(takers, key=lambda statement: _distance(statement, mention))
                    places[nearest].append((place, side))
                elif not landmark:
                    self._named.extend(place.on(side))
        return places

    def _takes(self, statement: Mention, place: Place, landmark: bool) -> bool:
        """Whether `place` can belong to `statement`. A landmark ("over the heart") only narrows down a finding."""
        if statement.kind == "finding":
            kind = self._lexicon.findings[statement.name]
            return kind.may_lie_in(place) and not (landmark and kind.is_elsewhere(place))
        if landmark:
            return False
        if statement.kind == "quality":
            return self._lexicon.qualities[statement.name].name_at(place) is not None
        return True

    def _names(
        self, statement: Mention, named: Sequence[tuple[Place, str | None]], affirmed: Sequence[str]
    ) -> dict[str, list[tuple[Place, str | None]]]:
        """The findings that a statement stands for, each with those of its places where it is."""
        if statement.kind == "finding":
            instead = self._lexicon.findings[statement.name].beside
            return {next((instead[other] for other in affirmed if other in instead), statement.name): list(named)}
        if statement.kind == "abnormality":
            return {"abnormality": list(named)} if named else {}
        quality = self._lexicon.qualities[statement.name]
        names: dict[str, list[tuple[Place, str | None]]] = {}
        for place, side in named:
            names.setdefault(quality.name_at(place), []).append((place, side))
        if not names and quality.otherwise is not None:
            names[quality.otherwise.name] = []
        return names

    def _read_normal(self, named: Sequence[tuple[Place, str | None]]) -> None:
        """Places called normal, and the findings that this denies."""
        for place, side in named:
            regions = place.on(side)
            self._normal.extend(regions)
            if place.normal_denies is not None:
                attribute = self._lexicon.findings[place.normal_denies].attribute
                self._denied.append(Finding(place.normal_denies, attribute, regions, None, ABSENT))

    def _locate(
        self,
        kind: FindingKind,
        statement: Mention,
        named: Sequence[tuple[Place, str | None]],
        sides: Sequence[Mention],
        clause: Sequence[Mention],
    ) -> _Located:
        """The finding of this kind at the places named for it; without any, where such findings usually are."""
        own_sides = {side for _, side in named} or {_nearest_side(sides, statement)}
        side = own_sides.pop() if len(own_sides) == 1 else "both"
        regions = [region for place, its_side in named for region in place.on(its_side)]
        if not named or not all(kind.is_elsewhere(place) for place, _ in named):
            regions += [region for place in kind.places for region in place.on(side)]
        polarity = self._polarity[statement]
        finding = Finding(
            name=kind.name,
            attribute=kind.attribute,
            regions=tuple(_distinct(regions)),
            side=side,
            polarity=polarity,
            severity=_nearest_cue(clause, statement, "severity"),
            comparison=_nearest_cue(clause, statement, "comparison"),
            temporal=_nearest_cue(clause, statement, "temporal"),
            located=side is not None or not kind.focal or polarity == ABSENT,
        )
        return _Located(finding, kind, tuple(place for place, _ in named))

    def _borrow_place(self, located: _Located, others: Sequence[_Located]) -> _Located:
        """An affirmed finding for which no place is named lies where another of the sentence does, on the same side."""
        if located.places or located.finding.polarity == ABSENT:
            return located
        side = located.finding.side
        lenders = [other for other in others if side is None or other.finding.side == side]
        lender = next((other for other in lenders if other.lends_to(located)), None)
        if lender is None:
            return located
        there = {"regions": lender.finding.regions, "side": lender.finding.side, "located": lender.finding.located}
        return replace(located, finding=replace(located.finding, **there), places=lender.places)


def _distance(one: Mention, other: Mention) -> tuple[int, bool]:
    """Words between two mentions; where that is equal, the one that comes later is nearer."""
    return max(one.start - other.end, other.start - one.end), one.start < other.start


def _nearest_side(sides: Sequence[Mention], mention: Mention) -> str | None:
    """The side named nearest to `mention`; None where none is named."""
    nearest = _nearest(sides, mention)
    return None if nearest is None else nearest.name


def _nearest(cues: Sequence[Mention], mention: Mention) -> Mention | None:
    """Of words that describe others, the nearest to `mention`; of two equally near, the one before it."""
    return min(cues, key=lambda cue: (_distance(cue, mention)[0], cue.start > mention.start), default=None)


def _nearest_cue(clause: Sequence[Mention], mention: Mention, kind: str) -> str | None:
    """The nearest cue of this kind, if it is near enough to describe `mention`."""
    cues = [cue for cue in clause if cue.kind == kind and _distance(cue, mention)[0] <= _REACH[kind]]
    nearest = _nearest(cues, mention)
    return None if nearest is None else nearest.name


# Command
