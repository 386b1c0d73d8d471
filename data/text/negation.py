"""Which findings of a sentence are affirmed, denied, or left open: cues and how far they reach.

Cues before a finding open a scope that reaches to a word of `scope ends` in `files/lexicon/cues.yaml`; in a list, past
commas too. Cues after a finding close one that reaches back. This follows NegEx; beyond it, a denial ends where a new
statement begins: "no effusion is seen, heart enlarged", "no effusion, lungs are hazy", "no effusion, mild edema".
"""

from collections.abc import Sequence

from data.text.lexicon import Mention

PRESENT, ABSENT, UNCERTAIN, HYPOTHETICAL = "present", "absent", "uncertain", "hypothetical"
FINDING_KINDS = frozenset(("finding", "quality", "abnormality"))
_OPENING = {"negation before": ABSENT, "hedge before": UNCERTAIN, "hypothetical": HYPOTHETICAL}
_CLOSING = {"negation after": ABSENT, "hedge after": UNCERTAIN}


def polarities(mentions: Sequence[Mention]) -> dict[Mention, str]:
    """The polarity of every mention in a sentence that can be a finding, by the cues among `mentions`.

    HYPOTHETICAL is what the sentence does not state at all ("if there is concern for pneumonia").
    """
    reader = _Scopes()
    for mention in mentions:
        reader.read(mention)
    return reader.polarities


class _Scopes:
    """Reads the mentions of a sentence from left to right.

    scope      polarity of the findings to come
    listing    a comma or "and" passed since the scope opened: what follows may be the next item, or another statement
    complete   a word such as "seen" passed, after which the next item is another statement
    behind     findings that a cue after them would be about
    subject    a place came since the last comma or "and", and no finding
    """

    def __init__(self) -> None:
        self.polarities: dict[Mention, str] = {}
        self._behind: list[Mention] = []
        self._subject = False
        self._after_break = False
        self._open(PRESENT)

    def _open(self, scope: str) -> None:
        self._scope, self._listing, self._complete = scope, False, False

    def read(self, mention: Mention) -> None:
        """Take in the next mention."""
        kind = mention.kind
        if kind in FINDING_KINDS:
            self.polarities[mention] = self._scope
            self._behind.append(mention)
            self._subject = False
        elif kind in _OPENING:
            # "No opacity to suggest pneumonia" denies both.
            if kind != "hedge before" or self._scope != ABSENT or self._listing:
                self._open(_OPENING[kind])
        elif kind in _CLOSING:
            self._close(_CLOSING[kind])
        elif kind == "alternative":
            self._offer_alternative()
        elif kind == "scope ends":
            self._open(PRESENT)
            self._behind = []
        elif kind in ("comma", "and"):
            self._break(kind)
        elif kind == "existence":
            self._complete = bool(self._behind)
        elif kind == "place":
            self._subject = True
        elif self._scope == ABSENT and self._listing and self._starts_statement(mention):
            self._open(PRESENT)
        self._after_break = kind in ("comma", "and")

    def _close(self, polarity: str) -> None:
        """A cue about the findings behind it; about those to come where there are none."""
        if not self._behind:
            self._open(polarity)
            return
        for finding in self._behind:
            if polarity == ABSENT or self.polarities[finding] != ABSENT:
                self.polarities[finding] = polarity
        self._complete = True

    def _offer_alternative(self) -> None:
        """Of findings on both sides of "or" and "versus", none is sure; "no effusion or pneumothorax" denies both."""
        if self._scope in (PRESENT, UNCERTAIN) and self._behind:
            if self.polarities[self._behind[-1]] == PRESENT:
                self.polarities[self._behind[-1]] = UNCERTAIN
            self._open(UNCERTAIN)

    def _break(self, kind: str) -> None:
        """A comma or "and": the next item of a list, or the end of the scope."""
        if self._complete or (self._scope == UNCERTAIN and kind == "comma"):
            self._open(PRESENT)
        self._listing, self._subject = True, False
        if kind == "comma":
            self._behind = []

    def _starts_statement(self, mention: Mention) -> bool:
        """Whether an item of a list of denials starts another statement ("lungs are", "stable", "mild")."""
        if mention.kind == "being":
            return self._subject
        affirms = mention.kind in ("severity", "comparison") and mention.name in ("mild", "no change")
        return affirms and self._after_break
