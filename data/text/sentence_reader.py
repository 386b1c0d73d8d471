"""Reading a sentence: which findings it states, with which polarity, and in which regions.

`read_sentence` looks up the terms of the lexicon and their polarity, and splits the sentence into clauses. In each
clause, every place is assigned to the nearest statement that it can locate (`_SentenceReader._assign_places`), every
statement becomes a finding in the regions of its places (`_locate`), and an affirmed finding without a place takes that
of another finding (`_borrow_place`). A statement is a mention of a finding, a quality or an abnormality, or "normal".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from data.ontology import RESOLVED, UNCHANGED
from data.text.findings import STATEMENT_KINDS, Finding, Sentence, unique
from data.text.lexicon import FindingKind, Lexicon, Mention, Place
from data.text.negation import ABSENT, HYPOTHETICAL, find_polarities

_DENIALS = ("negation before", "negation after")
_CLAUSE_ENDS = frozenset(("comma", "colon", "dash", "scope ends"))
# Largest number of words between a landmark or locative word ("overlying", "in") and its place.
_PLACE_REACH = 3
# Largest number of words between a cue and the finding that it describes.
_CUE_REACH = {"severity": 5, "comparison": 12, "temporal": 12}


@lru_cache(maxsize=1 << 16)
def read_sentence(words: tuple[str, ...]) -> Sentence:
    """Return what a sentence of normalised `words` states; its `text` is empty.

    Results are cached, because reports repeat sentences.
    """
    lexicon = Lexicon.load()
    words = lexicon.repeat_shared_nouns(lexicon.correct(words))
    mentions = lexicon.find(words)
    reader = _SentenceReader(lexicon, words, find_polarities(mentions))
    for clause in _split_clauses(mentions):
        reader.read(clause)
    return reader.sentence()


def _split_clauses(mentions: Sequence[Mention]) -> list[list[Mention]]:
    """Split `mentions` at signs and at terms that end a scope; a part that states nothing joins a neighbour."""
    parts: list[list[Mention]] = [[]]
    for mention in mentions:
        if mention.kind in _CLAUSE_ENDS and _is_statement(parts[-1]):
            parts.append([])
        parts[-1].append(mention)
    clauses = parts[:1]
    for part in parts[1:]:
        if _is_statement(part):
            clauses.append(part)
        else:
            clauses[-1].extend(part)
    return clauses


def _is_statement(part: Sequence[Mention]) -> bool:
    """Whether a part of a sentence states something by itself: "stable mediastinum" does, "stable" does not."""
    kinds = {mention.kind for mention in part}
    return not kinds.isdisjoint(STATEMENT_KINDS) or {"place", "comparison"} <= kinds


class _NamedPlace(NamedTuple):
    """A place that a sentence names, and its side: "left", "right", "both", or None if not stated."""

    place: Place
    side: str | None

    @property
    def regions(self) -> tuple[str, ...]:
        return self.place.regions_on(self.side)


@dataclass(frozen=True)
class _LocatedFinding:
    """A finding, its kind, and the places that the sentence names for it."""

    finding: Finding
    kind: FindingKind
    places: tuple[Place, ...]

    def can_locate(self, other: "_LocatedFinding") -> bool:
        """Whether `other`, which has no place, can be assumed to be at the same place."""
        if self.finding.polarity == ABSENT:
            return False
        if self.places or self.finding.side is not None:
            return any(other.kind.can_be_at(place) for place in self.places or self.kind.places)
        return any(place.name in other.kind.also for place in self.kind.places)


class _SentenceReader:
    """Reads the clauses of a sentence one by one."""

    def __init__(self, lexicon: Lexicon, words: Sequence[str], polarities: dict[Mention, str]):
        self._lexicon = lexicon
        self._words = words
        self._polarities = polarities
        self._findings: list[_LocatedFinding] = []
        self._denied_by_normal: list[Finding] = []
        self._normal_regions: list[str] = []
        self._other_regions: list[str] = []
        self._region_changes: list[tuple[str, str]] = []

    def sentence(self) -> Sentence:
        """Return what the clauses read so far state."""
        findings = (*self._denied_by_normal, *(located.finding for located in self._findings))
        regions = [region for finding in findings for region in finding.regions]
        regions += self._normal_regions + self._other_regions
        return Sentence(
            "", findings, tuple(unique(self._normal_regions)), tuple(unique(regions)),
            tuple(dict.fromkeys(self._region_changes)),
        )

    def read(self, clause: Sequence[Mention]) -> None:
        """Read the next clause."""
        sides = [mention for mention in clause if mention.kind == "side"]
        places_of = self._assign_places(clause, sides)
        affirmed = [statement.name for statement in places_of if self._polarities.get(statement, ABSENT) != ABSENT]
        new: list[_LocatedFinding] = []
        for statement, places in places_of.items():
            if statement.kind == "normal":
                self._add_normal(places)
                if _nearest_cue(clause, statement, "comparison") == UNCHANGED:
                    self._add_changes(places, UNCHANGED)
                continue
            places = places or self._take_place(statement, places_of)
            for name, finding_places in self._resolve(statement, places, affirmed).items():
                new.append(self._locate(self._lexicon.findings[name], statement, finding_places, sides, clause))
        previous = self._findings[-1:]
        for located in new:
            others = [other for other in new if other is not located] + previous
            self._findings.append(_borrow_place(located, others))

    def _assign_places(
        self, clause: Sequence[Mention], sides: Sequence[Mention]
    ) -> dict[Mention, list[_NamedPlace]]:
        """Return every statement of the clause with its places: each place goes to the nearest statement it can locate.

        Places without such a statement only add to the regions that the sentence is about.
        """
        places_of: dict[Mention, list[_NamedPlace]] = {
            mention: []
            for mention in clause
            if mention.kind in STATEMENT_KINDS and self._polarities.get(mention) != HYPOTHETICAL
        }
        for mention, is_landmark, is_locative in _place_mentions(clause):
            place = self._lexicon.places[mention.name]
            named = _NamedPlace(place, place.side or _nearest_side(sides, mention))
            statements = [each for each in places_of if self._can_be_at(each, place, is_landmark)]
            if is_locative:
                statements = [each for each in statements if each.end <= mention.start] or statements
            if statements:
                # At equal distance, the statement after the place is nearer.
                nearest = min(statements, key=lambda each: (_distance(each, mention), each.start < mention.start))
                places_of[nearest].append(named)
            elif not is_landmark:
                self._other_regions.extend(named.regions)
                if (change := _nearest_cue(clause, mention, "comparison")) is not None:
                    self._add_changes([named], change)
        return places_of

    def _can_be_at(self, statement: Mention, place: Place, is_landmark: bool) -> bool:
        """Whether `place` can locate `statement`. A landmark ("over the heart") can only narrow down a finding."""
        if statement.kind == "finding":
            kind = self._lexicon.findings[statement.name]
            return kind.can_be_at(place) and not (is_landmark and kind.is_other_family(place))
        if statement.kind == "quality":
            quality = self._lexicon.qualities[statement.name]
            return quality.finding_at(place) is not None and (quality.takes_place or not is_landmark)
        return not is_landmark

    def _take_place(
        self, statement: Mention, places_of: dict[Mention, list[_NamedPlace]]
    ) -> list[_NamedPlace]:
        """Return the place of a quality that has none of its own: that of another finding ("deformed rib, a fracture").

        This is a place of the same clause, or else that of the finding before, where the quality is a finding.
        """
        quality = self._lexicon.qualities.get(statement.name) if statement.kind == "quality" else None
        if quality is None or not quality.takes_place:
            return []
        others = [named for named_places in places_of.values() for named in named_places]
        kinds = [self._lexicon.findings[each.name] for each in places_of if each.kind == "finding"]
        others += [_NamedPlace(place, None) for kind in kinds for place in kind.places]
        if self._findings:
            before = self._findings[-1]
            others += [_NamedPlace(place, before.finding.side) for place in before.places or before.kind.places]
        return [named for named in others if named.place.name in quality.by_place][:1]

    def _resolve(
        self, statement: Mention, places: Sequence[_NamedPlace], affirmed: Sequence[str]
    ) -> dict[str, list[_NamedPlace]]:
        """Return the names of the findings that a statement stands for, each with its places.

        affirmed  names of the findings and qualities that the clause affirms: with some of them, a finding becomes
                  another ("calcified" and "nodule")
        """
        if statement.kind == "finding":
            beside = self._lexicon.findings[statement.name].beside
            name = next((beside[other] for other in affirmed if other in beside), statement.name)
            return {name: list(places)}
        if statement.kind == "abnormality":
            return {"abnormality": list(places)} if places else {}
        quality = self._lexicon.qualities[statement.name]
        places_of: dict[str, list[_NamedPlace]] = {}
        for named in places:
            places_of.setdefault(quality.finding_at(named.place), []).append(named)
        if not places_of and quality.default is not None:
            places_of[quality.default.name] = []
        return places_of

    def _add_changes(self, places: Sequence[_NamedPlace], change: str) -> None:
        self._region_changes.extend((region, change) for named in places for region in named.regions)

    def _find_change(self, clause: Sequence[Mention], statement: Mention) -> str | None:
        """Return the change that a clause states of a finding; what is denied as no longer there has resolved."""
        if self._polarities[statement] == ABSENT:
            denial = _nearest([cue for cue in clause if cue.kind in _DENIALS], statement)
            words = () if denial is None else self._words[denial.start : denial.end]
            if self._lexicon.resolving_words.intersection(words):
                return RESOLVED
        return _nearest_cue(clause, statement, "comparison")

    def _add_normal(self, places: Sequence[_NamedPlace]) -> None:
        """Add places that are called normal, and the findings that are therefore absent."""
        for named in places:
            self._normal_regions.extend(named.regions)
            name = named.place.normal_denies
            if name is not None:
                attribute = self._lexicon.findings[name].attribute
                self._denied_by_normal.append(Finding(name, attribute, named.regions, None, ABSENT))

    def _locate(
        self,
        kind: FindingKind,
        statement: Mention,
        places: Sequence[_NamedPlace],
        sides: Sequence[Mention],
        clause: Sequence[Mention],
    ) -> _LocatedFinding:
        """Return the finding that `statement` mentions, in the regions of `places`.

        The default regions are added unless all places are in other families.
        """
        stated_sides = {named.side for named in places} or {_nearest_side(sides, statement)}
        # "The right effusion is larger than the left."
        are_compared = any(mention.kind == "sides compared" for mention in clause) and stated_sides != {None}
        side = stated_sides.pop() if len(stated_sides) == 1 and not are_compared else "both"
        regions = [region for named in places for region in named.regions]
        if not places or not all(kind.is_other_family(named.place) for named in places):
            regions += [region for place in kind.places for region in place.regions_on(side)]
        polarity = self._polarities[statement]
        finding = Finding(
            name=kind.name,
            attribute=kind.attribute,
            regions=tuple(unique(regions)),
            side=side,
            polarity=polarity,
            severity=_nearest_cue(clause, statement, "severity"),
            change=self._find_change(clause, statement),
            temporal=_nearest_cue(clause, statement, "temporal"),
            located=side is not None or not kind.focal or polarity == ABSENT,
        )
        return _LocatedFinding(finding, kind, tuple(named.place for named in places))


def _borrow_place(located: _LocatedFinding, others: Sequence[_LocatedFinding]) -> _LocatedFinding:
    """Return an affirmed finding without a place at the place of the first of `others` that can locate it."""
    if located.places or located.finding.polarity == ABSENT:
        return located
    side = located.finding.side
    for other in others:
        if (side is None or other.finding.side == side) and other.can_locate(located):
            source = other.finding
            finding = replace(located.finding, regions=source.regions, side=source.side, located=source.located)
            return replace(located, finding=finding, places=other.places)
    return located


def _place_mentions(clause: Sequence[Mention]) -> Iterator[tuple[Mention, bool, bool]]:
    """Yield the places of a clause, each with whether a landmark word and whether a locative word precedes it."""
    landmark_end = locative_end = -1
    for mention in clause:
        if mention.kind == "landmark word":
            landmark_end = mention.end + _PLACE_REACH
        elif mention.kind == "locative word":
            locative_end = mention.end + _PLACE_REACH
        elif mention.kind in STATEMENT_KINDS:
            landmark_end = locative_end = -1
        elif mention.kind == "place":
            yield mention, mention.start < landmark_end, mention.start < locative_end


def _distance(first: Mention, second: Mention) -> int:
    """Return the number of words between two mentions."""
    return max(first.start - second.end, second.start - first.end)


def _nearest(cues: Sequence[Mention], mention: Mention) -> Mention | None:
    """Return the cue nearest to `mention`; at equal distance, the one before it. None if there are no cues."""
    return min(cues, key=lambda cue: (_distance(cue, mention), cue.start > mention.start), default=None)


def _nearest_side(sides: Sequence[Mention], mention: Mention) -> str | None:
    """Return the side that is named nearest to `mention`; None if no side is named."""
    nearest = _nearest(sides, mention)
    return None if nearest is None else nearest.name


def _nearest_cue(clause: Sequence[Mention], mention: Mention, kind: str) -> str | None:
    """Return the name of the nearest cue of this kind within reach of `mention`, or None."""
    cues = [cue for cue in clause if cue.kind == kind and _distance(cue, mention) <= _CUE_REACH[kind]]
    nearest = _nearest(cues, mention)
    return None if nearest is None else nearest.name
