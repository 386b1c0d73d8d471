"""Negation and hedging: which findings of a sentence are affirmed, negated or uncertain.

A cue before a finding opens a scope, which ends at a term of `scope ends` in `files/lexicon/cues.yaml`; in a list, the
scope continues past commas. A cue after a finding reaches back to the findings before it. This is NegEx (Chapman et
al., 2001), with one addition: a negation also ends where a new statement begins, as in "no effusion is seen, heart
enlarged", "no effusion, lungs are hazy" and "no effusion, mild edema".
"""

from collections.abc import Sequence

from data.text.lexicon import Mention

PRESENT, ABSENT, UNCERTAIN, HYPOTHETICAL = "present", "absent", "uncertain", "hypothetical"
FINDING_KINDS = frozenset(("finding", "quality", "abnormality"))
_CUES_BEFORE = {"negation before": ABSENT, "hedge before": UNCERTAIN, "hypothetical": HYPOTHETICAL}
_CUES_AFTER = {"negation after": ABSENT, "hedge after": UNCERTAIN}


def find_polarities(mentions: Sequence[Mention]) -> dict[Mention, str]:
    """Return the polarity of every finding, quality and abnormality among the `mentions` of a sentence.

    HYPOTHETICAL stands for what the sentence does not assert ("if there is concern for pneumonia").
    """
    tracker = _ScopeTracker()
    for mention in mentions:
        tracker.read(mention)
    return tracker.polarities


class _ScopeTracker:
    """Reads the mentions of a sentence from left to right and keeps track of the current scope.

    _scope          polarity of the findings that follow
    _in_list        a comma or "and" occurred in this scope: what follows continues a list or starts a statement
    _is_complete    a word such as "seen" occurred in this scope: the next item starts a statement
    _previous       findings to which a cue after them refers
    _place_is_last  a place, but no finding, came after the last comma or "and"
    _after_break    the last mention was a comma or "and"
    """

    def __init__(self) -> None:
        self.polarities: dict[Mention, str] = {}
        self._previous: list[Mention] = []
        self._place_is_last = False
        self._after_break = False
        self._open_scope(PRESENT)

    def _open_scope(self, polarity: str) -> None:
        self._scope, self._in_list, self._is_complete = polarity, False, False

    def read(self, mention: Mention) -> None:
        """Process the next mention."""
        kind = mention.kind
        if kind in FINDING_KINDS:
            self.polarities[mention] = self._scope
            self._previous.append(mention)
            self._place_is_last = False
        elif kind in _CUES_BEFORE:
            # "No opacity to suggest pneumonia" negates both.
            if kind != "hedge before" or self._scope != ABSENT or self._in_list:
                self._open_scope(_CUES_BEFORE[kind])
        elif kind in _CUES_AFTER:
            self._apply_to_previous(_CUES_AFTER[kind])
        elif kind == "alternative":
            self._hedge_alternatives()
        elif kind == "scope ends":
            self._open_scope(PRESENT)
            self._previous = []
        elif kind in ("comma", "and"):
            self._continue_list(kind)
        elif kind == "existence":
            self._is_complete = bool(self._previous)
        elif kind == "place":
            self._place_is_last = True
        elif self._scope == ABSENT and self._in_list and self._starts_statement(mention):
            self._open_scope(PRESENT)
        self._after_break = kind in ("comma", "and")

    def _apply_to_previous(self, polarity: str) -> None:
        """Apply a cue to the findings before it, or to those after it if there are none before."""
        if not self._previous:
            self._open_scope(polarity)
            return
        for finding in self._previous:
            if polarity == ABSENT or self.polarities[finding] != ABSENT:
                self.polarities[finding] = polarity
        self._is_complete = True

    def _hedge_alternatives(self) -> None:
        """Mark the findings on both sides of "or" or "versus" as uncertain, unless they are negated."""
        if self._scope in (PRESENT, UNCERTAIN) and self._previous:
            if self.polarities[self._previous[-1]] == PRESENT:
                self.polarities[self._previous[-1]] = UNCERTAIN
            self._open_scope(UNCERTAIN)

    def _continue_list(self, kind: str) -> None:
        """Process a comma or "and": the next item of a list, or the end of the scope."""
        if self._is_complete or (self._scope == UNCERTAIN and kind == "comma"):
            self._open_scope(PRESENT)
        self._in_list, self._place_is_last = True, False
        if kind == "comma":
            self._previous = []

    def _starts_statement(self, mention: Mention) -> bool:
        """Whether an item in a list of negations starts a new statement ("lungs are", "stable", "mild")."""
        if mention.kind == "being":
            return self._place_is_last
        affirms = mention.kind in ("severity", "comparison") and mention.name in ("mild", "no change")
        return affirms and self._after_break
