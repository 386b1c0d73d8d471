"""The words of radiology reports: places, findings, and the cues that say how a finding is meant.

They stand in `files/lexicon/`, whose heads explain the notation. `Lexicon.find` looks all of them up in a sentence at
once; `data/text_graph.py` puts together what they mean.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from data.errors import UserError
from data.ontology import FILES

_FOLDER = FILES / "lexicon"
_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[,:]")
_BRACKET = re.compile(r"\(([^)]*)\)")
_ABNORMALITY = "abnormality"
# Longest first: the ending, and what takes its place.
_PLURALS = (
    ("aces", "ax"),
    ("ices", "ex"),
    ("ases", "asis"),
    ("sses", "ss"),
    ("shes", "sh"),
    ("ches", "ch"),
    ("hila", "hilum"),
    ("ies", "y"),
    ("xes", "x"),
    ("s", ""),
)
_NO_PLURALS = ("ss", "us", "is")
_IRREGULAR = {
    "bases": "base",
    "spaces": "space",
    "diseases": "disease",
    "increases": "increase",
    "decreases": "decrease",
    "surfaces": "surface",
    "bronchi": "bronchus",
    "sulci": "sulcus",
    "hili": "hilum",
    "vertebrae": "vertebra",
    "bullae": "bulla",
}


@dataclass(frozen=True)
class Place:
    """Somewhere in the chest.

    regions        with `{side}` where the side matters
    side           "left", "right" or "both" where the word itself implies it
    normal_denies  name of the finding that a normal place has not
    """

    name: str
    family: str
    regions: tuple[str, ...]
    side: str | None
    normal_denies: str | None

    @property
    def paired(self) -> bool:
        """Whether there is one on the left and one on the right."""
        return any("{side}" in region for region in self.regions)

    def on(self, side: str | None) -> tuple[str, ...]:
        """The names of its regions on `side`; on both for "both" and None."""
        side = self.side or side
        sides = (side,) if side in ("left", "right") else ("left", "right")
        return tuple(dict.fromkeys(region.format(side=each) for region in self.regions for each in sides))


@dataclass(frozen=True)
class FindingKind:
    """A kind of finding.

    attribute  category|label of `files/attributes.yaml`; None for what that vocabulary lacks
    places     where it lies unless the sentence says where
    also       names of places outside its family where it may lie
    beside     name of a finding or quality -> what this is called instead where that is affirmed too
    focal      it lies on one side
    """

    name: str
    attribute: str | None
    places: tuple[Place, ...]
    also: frozenset[str]
    beside: dict[str, str]
    focal: bool

    def may_lie_in(self, place: Place) -> bool:
        """Whether `place` can say where a finding of this kind is."""
        return place.name in self.also or not self.is_elsewhere(place)

    def is_elsewhere(self, place: Place) -> bool:
        """Whether `place` is of another family than where it usually lies."""
        return all(place.family != own.family for own in self.places)


@dataclass(frozen=True)
class Quality:
    """A word that becomes a finding by the place that it is said of.

    by_place   name of a place -> name of the finding there
    otherwise  the finding where no such place is named; None: then the word says nothing
    """

    name: str
    by_place: dict[str, str]
    otherwise: FindingKind | None

    def name_at(self, place: Place) -> str | None:
        """The name of the finding that it means at `place`; None where it says nothing of it."""
        if place.name in self.by_place:
            return self.by_place[place.name]
        return self.otherwise.name if self.otherwise is not None and self.otherwise.may_lie_in(place) else None


@dataclass(frozen=True)
class Mention:
    """A term of the lexicon in a sentence: words `start` to `end` (exclusive).

    kind  "place", "finding", "quality", or the name of a list in `cues.yaml`
    name  which one: the key of the entry; "" for lists without entries
    """

    kind: str
    name: str
    start: int
    end: int


class Lexicon:
    """Everything in `files/lexicon/`, ready for look-up.

    places, findings, qualities  by name
    groups                       region -> "lung", "heart", "mediastinal" or "bone"
    headings                     heading of a report's part -> whether the part is about the images
    """

    def __init__(self, folder: Path = _FOLDER):
        """Read the lexicon in `folder`. Raises UserError for what is missing or refers to nothing."""
        anatomy, findings, cues = (_read(folder / f"{name}.yaml") for name in ("anatomy", "findings", "cues"))
        self._root: dict = {}
        try:
            self._take_anatomy(anatomy)
            self._take_findings(findings)
            self._take_cues(cues)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"The lexicon in {folder} is malformed ({type(error).__name__}: {error})") from error

    @classmethod
    @cache
    def load(cls) -> "Lexicon":
        """The shipped lexicon."""
        return cls()

    def with_every_noun(self, words: Sequence[str]) -> list[str]:
        """`words` with the noun that several levels share repeated: "upper and lower lobe" has an "upper lobe" then."""
        text, spelled_out = None, " ".join(words)
        while spelled_out != text:  # once for every level but the last
            text, spelled_out = spelled_out, self._shared_noun.sub(r"\1 \3\2", spelled_out)
        return text.split()

    def find(self, words: Sequence[str]) -> list[Mention]:
        """The terms in `words` (as `words_of` gives them), at every word the longest that starts there."""
        mentions = []
        start = 0
        while start < len(words):
            node, end, senses = self._root, start, ()
            for position in range(start, len(words)):
                node = node.get(words[position])
                if node is None:
                    break
                if None in node:
                    end, senses = position + 1, node[None]
            mentions += [Mention(kind, name, start, end) for kind, name in senses]
            start = max(end, start + 1)
        return mentions

    def _take_anatomy(self, content: dict) -> None:
        self.groups: dict[str, str] = {
            region: group for group, regions in content["groups"].items() for region in regions
        }
        self.places: dict[str, Place] = {}
        for name, entry in content["places"].items():
            self.places[name] = Place(
                name, entry["family"], tuple(entry["regions"]), entry.get("side"), entry.get("normal denies")
            )
            self._add_all(entry["terms"], "place", name)
        levels, nouns = ("|".join(sorted(content[key], key=len, reverse=True)) for key in ("levels", "level nouns"))
        self._shared_noun = re.compile(rf"\b({levels})((?: (?:,|and|or))+(?: left| right)? (?:{levels}) ({nouns}))\b")
        self._add_all(content["landmark words"], "landmark word", "")
        self._add_all(content["locative words"], "locative word", "")
        for side, terms in content["sides"].items():
            self._add_all(terms, "side", side)

    def _take_findings(self, content: dict) -> None:
        unnamed = FindingKind(_ABNORMALITY, None, (), frozenset(), {}, False)
        self.findings: dict[str, FindingKind] = {_ABNORMALITY: unnamed}
        for name, entry in content["findings"].items():
            self.findings[name] = FindingKind(
                name,
                entry.get("attribute"),
                tuple(self.places[place] for place in entry["at"]),
                frozenset(entry.get("also", ())),
                entry.get("beside", {}),
                entry.get("focal") == "true",
            )
            self._add_all(entry["terms"], "finding", name)
        self.qualities: dict[str, Quality] = {}
        for name, entry in content["qualities"].items():
            otherwise = self.findings[entry["otherwise"]] if "otherwise" in entry else None
            self.qualities[name] = Quality(name, entry["of"], otherwise)
            self._add_all(entry["terms"], "quality", name)
        self._add_all(content[_ABNORMALITY], _ABNORMALITY, "")
        named = [place.normal_denies for place in self.places.values()]
        named += [finding for quality in self.qualities.values() for finding in quality.by_place.values()]
        named += [finding for kind in self.findings.values() for finding in kind.beside.values()]
        for finding in named:
            if finding is not None:
                self.findings[finding]

    def _take_cues(self, content: dict) -> None:
        self.headings: dict[str, bool] = {}
        for readable, kind in ((False, "headings to skip"), (True, "headings to read")):
            for heading in content[kind]:
                self.headings.update({" ".join(words): readable for words in _expand(heading)})
        for kind, terms in content.items():
            if kind.startswith("headings"):
                continue
            if isinstance(terms, dict):
                for name, of_name in terms.items():
                    self._add_all(of_name, kind, name)
            else:
                self._add_all(terms, kind, "")

    def _add_all(self, terms: list[str], kind: str, name: str) -> None:
        for term in terms:
            for words in _expand(term):
                node = self._root
                for word in words:
                    node = node.setdefault(word, {})
                if (kind, name) not in node.setdefault(None, []):
                    node[None].append((kind, name))


def read_lexicon_file(name: str) -> Any:
    """The content of `files/lexicon/NAME.yaml`."""
    return _read(_FOLDER / f"{name}.yaml")


def words_of(text: str) -> list[str]:
    """The words of a sentence as the lexicon has them: lower case, in the singular, hyphens and slashes taken apart.

    Of the punctuation, `,` and `:` are words of their own and the rest goes.
    """
    text = text.lower().replace("'", "").replace("and/or", "and or").replace("/", " or ")
    return [_singular(word) for word in _WORD.findall(text)]


def _expand(term: str) -> Iterator[list[str]]:
    """The words of every way to read a term with `(a|b)` in it."""
    pieces = _BRACKET.split(term)
    choices = [piece.split("|") if number % 2 else [piece] for number, piece in enumerate(pieces)]
    for choice in product(*choices):
        words = words_of("".join(choice))
        if words:
            yield words


@cache
def _singular(word: str) -> str:
    """`word` without the ending of a plural. Words that only look like plurals lose it in lexicon and report alike."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or word.endswith(_NO_PLURALS):
        return word
    for ending, singular in _PLURALS:
        if word.endswith(ending):
            return word[: -len(ending)] + singular
    return word


def _read(path: Path) -> Any:
    try:
        # Every word is a word: elsewhere in YAML, "no" and "on" are false and true.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML") from error
