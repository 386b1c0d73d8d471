"""The lexicon of radiology reports: terms for places, findings and cues, and their look-up in a sentence.

The terms are in `files/lexicon/`; the comments there explain the notation. `Lexicon.find` finds all terms of a
sentence; `data/text/sentence_reader.py` combines them into findings.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data.errors import UserError, cannot_read, wrong_format
from data.ontology import FILES
from data.text.spelling import Spelling
from data.text.words import normalise_words

_FOLDER = FILES / "lexicon"
_ALTERNATIVES = re.compile(r"\(([^)]*)\)")
_ABNORMALITY = "abnormality"
# The parser in C reads the lexicon ten times as fast; PyYAML may lack it.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True)
class Place:
    """A place in the chest.

    family         places of one family can locate the same findings
    regions        names of regions; `{side}` stands for the side
    side           "left", "right" or "both" if the term implies a side; else None
    normal_denies  name of the finding that is absent if the place is called normal, or None
    """

    name: str
    family: str
    regions: tuple[str, ...]
    side: str | None
    normal_denies: str | None

    def regions_on(self, side: str | None) -> tuple[str, ...]:
        """Return the names of the regions on `side`; on both sides for "both" and None."""
        side = self.side or side
        sides = (side,) if side in ("left", "right") else ("left", "right")
        return tuple(dict.fromkeys(region.format(side=each) for region in self.regions for each in sides))


@dataclass(frozen=True)
class FindingKind:
    """A kind of finding.

    attribute  category|label of `files/attributes.yaml`; None if that vocabulary has no such attribute
    places     default places, used if the sentence names none
    also       names of further places, outside the families of `places`, where the finding can be
    beside     name of another finding or quality -> name of the finding that this one becomes if both are affirmed
    focal      on one side only: if affirmed without a side, it is not assigned to both
    """

    name: str
    attribute: str | None
    places: tuple[Place, ...]
    also: frozenset[str]
    beside: dict[str, str]
    focal: bool

    def can_be_at(self, place: Place) -> bool:
        """Whether a finding of this kind can be at `place`."""
        return place.name in self.also or not self.is_other_family(place)

    def is_other_family(self, place: Place) -> bool:
        """Whether `place` is in another family than the default places."""
        return all(place.family != default.family for default in self.places)


@dataclass(frozen=True)
class Quality:
    """A term that becomes a finding together with a place ("enlarged": of the heart, of the hilum).

    by_place  name of a place -> name of the finding at that place
    takes_place  whether it also applies to the place of the finding before it
    default   the finding at any other place where it can be, or if no place is named; None if there is no such finding
    """

    name: str
    by_place: dict[str, str]
    default: FindingKind | None
    takes_place: bool

    def finding_at(self, place: Place) -> str | None:
        """Return the name of the finding at `place`; None if the quality cannot refer to that place."""
        if place.name in self.by_place:
            return self.by_place[place.name]
        return self.default.name if self.default is not None and self.default.can_be_at(place) else None


class Mention(NamedTuple):
    """A term of the lexicon at the words `start` to `end` (exclusive) of a sentence.

    kind  "place", "finding", "quality", "abnormality", "side", "landmark word", "locative word"; "own statement"
          and "zone" for findings and places that begin a new statement behind a denial; a key of `cues.yaml`
    name  the entry that the term belongs to; "" for lists without entries
    """

    kind: str
    name: str
    start: int
    end: int


class Lexicon:
    """The content of `files/lexicon/`, indexed for look-up.

    places, findings, qualities  by name
    groups                       region -> "lung", "heart", "mediastinal" or "bone"
    headings                     heading of a section -> whether the section describes the images
    continuing_words             first words of a line that continue the sentence of the line before
    incomplete_words             last words of a line whose sentence continues on the next line
    opening_words                words with which statements begin
    resolving_words              words of denials of what was there before ("resolved")
    """

    def __init__(self, folder: Path = _FOLDER):
        """Read the lexicon in `folder`. Raises UserError if a part is missing or refers to an unknown name."""
        anatomy, findings, cues, spelling = (
            _read(folder / f"{name}.yaml") for name in ("anatomy", "findings", "cues", "spelling")
        )
        # A trie: word -> node. The key None of a node lists the (kind, name) of the terms that end there.
        self._root: dict = {}
        self._vocabulary: set[str] = set()
        try:
            self._add_anatomy(anatomy)
            self._add_findings(findings)
            self._add_cues(cues)
            self._spelling = Spelling(spelling["names"], spelling["other words"], self._vocabulary)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"The lexicon in {folder} is malformed ({type(error).__name__}: {error}): fix or restore its files"
            ) from error

    @classmethod
    @cache
    def load(cls) -> "Lexicon":
        """Return the shipped lexicon."""
        return cls()

    def find(self, words: Sequence[str]) -> list[Mention]:
        """Return the terms in `words` (see `normalise_words`): at every word the longest that starts there.

        A term with several meanings gives several mentions.
        """
        mentions = []
        start = 0
        while start < len(words):
            node, end, entries = self._root, start, ()
            for position in range(start, len(words)):
                node = node.get(words[position])
                if node is None:
                    break
                if None in node:
                    end, entries = position + 1, node[None]
            mentions += [Mention(kind, name, start, end) for kind, name in entries]
            start = max(end, start + 1)
        return mentions

    def correct(self, words: Sequence[str]) -> list[str]:
        """Return `words` (see `normalise_words`) with misspelt names of findings and places corrected."""
        return self._spelling.correct(words)

    def repeat_shared_nouns(self, words: Sequence[str]) -> list[str]:
        """Repeat a noun that several levels share: "upper and lower lobe" becomes "upper lobe and lower lobe"."""
        previous, text = None, " ".join(words)
        while text != previous:  # every pass completes one level
            previous, text = text, self._shared_noun.sub(r"\1 \3\2", text)
        return text.split()

    def _add_anatomy(self, content: dict) -> None:
        self.groups: dict[str, str] = {
            region: group for group, regions in content["groups"].items() for region in regions
        }
        self.places: dict[str, Place] = {}
        for name, entry in content["places"].items():
            self.places[name] = Place(
                name, entry["family"], tuple(entry["regions"]), entry.get("side"), entry.get("normal denies")
            )
            self._add_terms(entry["terms"], "place", name)
            if entry.get("own statement") == "true":
                self._add_terms(entry["terms"], "zone")
        levels, nouns = ("|".join(sorted(content[key], key=len, reverse=True)) for key in ("levels", "level nouns"))
        self._shared_noun = re.compile(rf"\b({levels})((?: (?:,|and|or))+(?: left| right)? (?:{levels}) ({nouns}))\b")
        self._add_terms(content["landmark words"], "landmark word")
        self._add_terms(content["locative words"], "locative word")
        self._add_terms(content["sides compared"], "sides compared")
        for side, terms in content["sides"].items():
            self._add_terms(terms, "side", side)

    def _add_findings(self, content: dict) -> None:
        unspecified = FindingKind(_ABNORMALITY, None, (), frozenset(), {}, False)
        self.findings: dict[str, FindingKind] = {_ABNORMALITY: unspecified}
        for name, entry in content["findings"].items():
            self.findings[name] = FindingKind(
                name,
                entry.get("attribute"),
                tuple(self.places[place] for place in entry["at"]),
                frozenset(entry.get("also", ())),
                entry.get("beside", {}),
                entry.get("focal") == "true",
            )
            self._add_terms(entry["terms"], "finding", name)
            if entry.get("own statement") == "true":
                self._add_terms(entry["terms"], "own statement")
        self.qualities: dict[str, Quality] = {}
        for name, entry in content["qualities"].items():
            default = self.findings[entry["otherwise"]] if "otherwise" in entry else None
            self.qualities[name] = Quality(name, entry["of"], default, entry.get("takes place") == "true")
            self._add_terms(entry["terms"], "quality", name)
        self._add_terms(content[_ABNORMALITY], _ABNORMALITY)
        self._check_references()

    def _check_references(self) -> None:
        """Raise KeyError if a place, quality or finding refers to an unknown finding."""
        names = [place.normal_denies for place in self.places.values() if place.normal_denies is not None]
        names += [finding for quality in self.qualities.values() for finding in quality.by_place.values()]
        names += [finding for kind in self.findings.values() for finding in kind.beside.values()]
        for name in names:
            if name not in self.findings:
                raise KeyError(name)

    def _add_cues(self, content: dict) -> None:
        self.headings: dict[str, bool] = {}
        for about_images, kind in ((False, "headings to skip"), (True, "headings to read")):
            for heading in content[kind]:
                self.headings.update({" ".join(words): about_images for words in _expand(heading)})
        self.continuing_words, self.incomplete_words, self.opening_words, self.resolving_words = (
            frozenset(content[kind])
            for kind in ("words that continue", "incomplete after", "words that open", "words that resolve")
        )
        for kind, terms in content.items():
            if kind.startswith(("headings", "words that")) or kind == "incomplete after":
                continue
            if isinstance(terms, dict):
                for name, entry_terms in terms.items():
                    self._add_terms(entry_terms, kind, name)
            else:
                self._add_terms(terms, kind)

    def _add_terms(self, terms: list[str], kind: str, name: str = "") -> None:
        for term in terms:
            for words in _expand(term):
                self._vocabulary.update(words)
                node = self._root
                for word in words:
                    node = node.setdefault(word, {})
                if (kind, name) not in node.setdefault(None, []):
                    node[None].append((kind, name))


def read_lexicon_file(name: str) -> Any:
    """Return the content of `files/lexicon/NAME.yaml`."""
    return _read(_FOLDER / f"{name}.yaml")


def _expand(term: str) -> Iterator[list[str]]:
    """Yield the words of every variant of a term that contains alternatives, `(a|b)`."""
    pieces = _ALTERNATIVES.split(term)
    choices = [piece.split("|") if number % 2 else [piece] for number, piece in enumerate(pieces)]
    for choice in product(*choices):
        words = normalise_words("".join(choice))
        if words:
            yield words


def _read(path: Path) -> Any:
    try:
        # A base loader reads everything as strings: the default loader turns "no" and "on" into booleans.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise cannot_read(path, error) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise wrong_format(path, "YAML", "fix it, or restore it") from error
