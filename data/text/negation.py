"""Negation and hedging: which findings of a sentence are affirmed, negated or uncertain.

A cue before a finding opens a scope, which ends at a term of `scope ends` in `files/lexicon/cues.yaml`; in a list, the
scope continues past commas. A cue after a finding reaches back to the findings before it. This is NegEx (Chapman et
al., 2001), with two additions:

- a negation also ends where a new statement begins, as in "no effusion is seen, heart enlarged", "no effusion, lungs
  are hazy", "no effusion, mild edema" and "no effusion, right PICC unchanged" (`_ScopeTracker._starts_statement`);
- an answer refers to what it stands behind, as in "effusion: none" and "effusion, not seen" (`_is_answer`).
"""

from collections.abc import Sequence

from data.text.lexicon import Mention

PRESENT, ABSENT, UNCERTAIN, HYPOTHETICAL = "present", "absent", "uncertain", "hypothetical"
FINDING_KINDS = frozenset(("finding", "quality", "abnormality"))
_CUES_BEFORE = {"negation before": ABSENT, "hedge before": UNCERTAIN, "hypothetical": HYPOTHETICAL}
_CUES_AFTER = {"negation after": ABSENT, "hedge after": UNCERTAIN}
# Signs and words between the statements of a sentence and the items of a list.
_ITEM_ENDS = frozenset(("comma", "and", "alternative", "dash", "colon", "scope ends"))
_ANSWER_SIGNS = frozenset(("comma", "dash", "colon", "question"))
# What can begin a new statement behind a denial, if no "or" follows that makes it an item of a list ...
_STARTS = frozenset(("side", "severity", "comparison", "zone"))
_PLACES = frozenset(("side", "zone"))
# ... or unless it is the last but one item before ", or".
_STRONG_STARTS = frozenset(("own statement", "starter", "known"))
_LISTED = frozenset(("comma", "and"))
# A list whose items are described ("small effusion, edema") is not plain: a cue behind it refers to the last item.
_DESCRIPTIONS = frozenset(("severity", "comparison", "side", "temporal"))


def find_polarities(mentions: Sequence[Mention]) -> dict[Mention, str]:
    """Return the polarity of every finding, quality and abnormality among the `mentions` of a sentence.

    HYPOTHETICAL stands for what the sentence does not assert ("if there is concern for pneumonia").
    """
    tracker = _ScopeTracker(mentions)
    for position in range(len(mentions)):
        tracker.read(position)
    return tracker.polarities


class _ScopeTracker:
    """Reads the mentions of a sentence from left to right and keeps track of the current scope.

    _scope          polarity of the findings that follow
    _in_list        a comma or "and" occurred in this scope: what follows continues a list or starts a statement
    _is_complete    a word such as "seen" occurred in this scope: the next item starts a statement
    _is_pending     no finding occurred yet in the scope of a cue
    _is_plain       the items of the list have no size, side or the like
    _has_conjunction  "and" or "or" precedes the last item
    _has_verb       a verb occurred since the last finding
    _is_predicate   a verb precedes the last finding ("the heart is enlarged")
    _is_partial     a term such as "most of" occurred: what follows is not negated as a whole
    _previous       findings to which a cue after them refers
    _earlier        findings before the last comma, colon, dash or "and", to which an answer refers
    _listed         findings before the last comma of a list ("effusion, edema, and pneumonia"), to which a cue after
                    the list also refers
    _place_is_last  a place, but no finding, came after the last comma or "and"
    """

    def __init__(self, mentions: Sequence[Mention]) -> None:
        self.polarities: dict[Mention, str] = {}
        self._mentions = mentions
        self._previous: list[Mention] = []
        self._earlier: list[Mention] = []
        self._listed: list[Mention] = []
        self._is_plain, self._has_conjunction = True, False
        self._place_is_last = self._has_verb = self._is_partial = self._is_predicate = False
        self._open_scope(PRESENT)

    def _open_scope(self, polarity: str) -> None:
        self._scope, self._in_list, self._is_complete = polarity, False, False
        self._is_pending = polarity != PRESENT

    def read(self, position: int) -> None:
        """Process the mention at `position`."""
        mention = self._mentions[position]
        kind = mention.kind
        if self._scope in (ABSENT, UNCERTAIN) and self._is_new_statement(position):
            self._open_scope(PRESENT)
        if kind in FINDING_KINDS:
            if self._is_predicate and self._mentions[position - 1].end == mention.start:
                self._forget()  # a text without full stops: "heart is enlarged pneumonia cannot be excluded"
            self._is_predicate = self._has_verb
            self.polarities[mention] = self._scope
            self._previous.append(mention)
            self._place_is_last = self._has_verb = self._is_pending = False
        elif kind in _CUES_BEFORE:
            self._read_cue_before(position, _CUES_BEFORE[kind])
        elif kind in _CUES_AFTER:
            self._read_cue_after(position, _CUES_AFTER[kind])
        elif kind == "alternative":
            self._has_conjunction = True
            self._hedge_alternatives()
        elif kind == "question":
            self._read_question(position)
        elif kind in ("scope ends", "explanation"):
            self._open_scope(PRESENT)
            self._forget()
        elif kind in _LISTED:
            self._continue_list(kind)
        elif kind in ("dash", "colon"):
            self._read_sign(position, kind)
        elif kind in _DESCRIPTIONS:
            self._is_plain = False
        elif kind == "existence":
            self._is_complete = bool(self._previous)
        elif kind == "partial":
            self._is_partial = True
        elif kind == "place":
            self._place_is_last = True
        elif kind == "being":
            self._read_verb(position)

    def _is_new_statement(self, position: int) -> bool:
        """Whether what is denied, or hedged, ends before the mention at `position`."""
        mention = self._mentions[position]
        before = self._mentions[position - 1] if position else None
        if before is None or mention.kind in _ITEM_ENDS:
            return False
        if before.start == mention.start:
            return False  # another meaning of the same term
        if before.kind in _LISTED:
            return self._scope == ABSENT and bool(self._previous or self._earlier) and self._starts_statement(position)
        # Cleaned reports lack commas: "no effusion mild edema".
        if before.kind not in FINDING_KINDS | {"own statement"} or before.end != mention.start:
            return False
        following = self._mentions[position : position + 2]
        if any(each.kind == "own statement" and each.start == before.end for each in following):
            return True
        is_denied = self._scope == ABSENT and mention.kind not in FINDING_KINDS
        return is_denied and self._starts_statement(position)

    def _starts_statement(self, position: int) -> bool:
        """Whether the item of a list of denials that begins at `position` is a statement of its own."""
        end = position
        while end < len(self._mentions) and self._mentions[end].kind not in _ITEM_ENDS:
            end += 1
        item = self._mentions[position:end]
        if not any(mention.kind in FINDING_KINDS for mention in item):
            return False
        first = {(mention.kind, mention.name) for mention in item if mention.start == item[0].start}
        kinds = {kind for kind, _ in first}
        if not kinds.isdisjoint(_CUES_BEFORE):
            return False
        next_or, is_after_comma = self._next_alternative(end)
        if ("comparison", "no change") in first or (item[-1].kind == "comparison" and next_or != end):
            return True
        kinds |= {mention.kind for mention in item if mention.kind == "own statement"}
        if self._mentions[position - 1].kind == "and":
            kinds -= _PLACES
        if not kinds.isdisjoint(_STRONG_STARTS) or ("severity", "mild") in first or ("temporal", "chronic") in first:
            return not is_after_comma
        return not kinds.isdisjoint(_STARTS) and "denied adjective" not in kinds and next_or is None

    def _next_alternative(self, position: int) -> tuple[int | None, bool]:
        """Return the position of the next "or" of the same list, if any, and whether a comma precedes it."""
        for index in range(position, len(self._mentions)):
            kind = self._mentions[index].kind
            if kind == "alternative":
                return index, self._mentions[index - 1].kind == "comma"
            if kind in ("scope ends", "being", "explanation", "dash", "colon") or kind in _CUES_BEFORE:
                break
        return None, False

    def _read_cue_before(self, position: int, polarity: str) -> None:
        """Open the scope of a cue; an answer ("effusion: no") refers to the findings before it."""
        if self._is_answer(position):
            self._apply(self._previous or self._earlier, polarity)
            self._open_scope(PRESENT)
            return
        # "No opacity to suggest pneumonia" negates both, and "if there is suspicion of pneumonia" asserts nothing.
        is_nested = self._scope == HYPOTHETICAL or (self._scope == ABSENT and not self._in_list)
        if polarity != UNCERTAIN or not is_nested:
            self._open_scope(polarity)

    def _is_answer(self, position: int) -> bool:
        """Whether the cue at `position` answers: findings and a sign precede it, and no finding follows."""
        mention = self._mentions[position]
        sign = self._mentions[position - 1] if position else None
        if sign is None or sign.kind not in _ANSWER_SIGNS or sign.end != mention.start:
            return False
        if not (self._previous or self._earlier) or mention.kind == "hypothetical":
            return False
        meanings = [each.kind for each in self._mentions[position : position + 4] if each.start == mention.start]
        if "answer" not in meanings or self._findings_after(position):
            return False
        # "Edema, no acute XXXX" does not deny the edema.
        return sign.kind != "comma" or self._ends_item(position)

    def _ends_item(self, position: int) -> bool:
        """Whether the mention at `position` is the last word before a sign, or of the sentence."""
        end = self._mentions[position].end
        following = [mention for mention in self._mentions[position + 1 : position + 5] if mention.start >= end]
        return not following or (following[0].start == end and following[0].kind in _ITEM_ENDS)

    def _findings_after(self, position: int) -> bool:
        """Whether a finding follows in the same item; the heading of the next answer ("edema: no") does not count."""
        for index in range(position + 1, len(self._mentions)):
            mention = self._mentions[index]
            if mention.kind in _ITEM_ENDS:
                return False
            if mention.kind in FINDING_KINDS:
                rest = self._mentions[index + 1 : index + 3]
                return not any(each.kind == "colon" and each.start == mention.end for each in rest)
        return False

    def _read_cue_after(self, position: int, polarity: str) -> None:
        """Apply a cue to the findings before it, in this item or the one before; without any, open its scope."""
        if polarity == ABSENT and self._is_partial and self._previous:
            return
        if self._previous:
            is_list = self._is_plain and self._has_conjunction
            self._apply([*(self._listed if is_list else ()), *self._previous], polarity)
        elif self._findings_after(position):
            self._open_scope(polarity)
            return
        elif not self._place_is_last:
            self._apply(self._earlier, polarity)
        self._is_complete = True

    def _apply(self, findings: Sequence[Mention], polarity: str) -> None:
        for finding in findings:
            # What is denied is not doubtful: "no effusion or edema can be suspected".
            if polarity == ABSENT or self.polarities[finding] != ABSENT:
                self.polarities[finding] = polarity

    def _hedge_alternatives(self) -> None:
        """Mark the findings on both sides of "or" or "versus" as uncertain, unless they are negated."""
        if self._scope in (PRESENT, UNCERTAIN) and self._previous:
            if self.polarities[self._previous[-1]] == PRESENT:
                self.polarities[self._previous[-1]] = UNCERTAIN
            self._open_scope(UNCERTAIN)

    def _read_question(self, position: int) -> None:
        """A question mark hedges the findings before it, unless an answer follows."""
        following = self._mentions[position + 1 : position + 3]
        if not any(mention.kind == "answer" for mention in following):
            self._apply(self._previous, UNCERTAIN)

    def _continue_list(self, kind: str) -> None:
        """Process a comma or "and": the next item of a list, or the end of the scope."""
        if self._is_complete or (self._scope == UNCERTAIN and kind == "comma" and not self._is_pending):
            self._open_scope(PRESENT)
        self._in_list, self._place_is_last = True, False
        self._has_conjunction = kind == "and"
        listed = [*self._listed, *self._previous] if self._is_plain and not self._has_verb else []
        if kind == "comma" or self._has_verb:
            self._forget()
            self._listed = listed

    def _read_sign(self, position: int, kind: str) -> None:
        """Process a dash or colon: a new statement, unless a cue precedes it or the list continues behind a dash."""
        if kind == "colon" and not self._previous:
            return
        if kind == "dash" and self._continues_after_dash(position):
            return
        self._open_scope(PRESENT)
        self._place_is_last = False
        self._forget()

    def _continues_after_dash(self, position: int) -> bool:
        """Whether "or" follows this dash, or the one that closes the insertion which it opens."""
        mentions = self._mentions
        closing = next((i for i in range(position + 1, len(mentions)) if mentions[i].kind == "dash"), position)
        return any(
            index + 1 < len(mentions) and mentions[index + 1].kind == "alternative" for index in (position, closing)
        )

    def _read_verb(self, position: int) -> None:
        """A verb ends a denial if its subject is a place of its own, or if a comma precedes the verb."""
        self._has_verb = True
        before = self._mentions[position - 1] if position else None
        is_after_comma = before is not None and before.kind == "comma" and before.end == self._mentions[position].start
        if self._scope == ABSENT and self._in_list and (self._place_is_last or is_after_comma):
            self._open_scope(PRESENT)

    def _forget(self) -> None:
        """Leave the findings so far to answers."""
        if self._previous:
            self._earlier = self._previous
        self._previous, self._listed = [], []
        self._has_verb = self._is_partial = self._is_predicate = False
        self._is_plain = True
