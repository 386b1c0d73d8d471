"""Correcting misspelt names of findings and places.

A word that the lexicon does not know is replaced by the name in `files/lexicon/spelling.yaml` that it is closest to, if
it is close enough: one typing error, or two in a long word, by the restricted Damerau-Levenshtein distance (Damerau,
1964), which counts a swap of neighbours as one.
"""

from collections.abc import Collection, Sequence

# Words of fewer letters are not corrected; words of at least _LONG letters may have two errors.
_SHORTEST, _LONG = 5, 9


class Spelling:
    """Corrects words that are not in a vocabulary."""

    def __init__(self, names: Sequence[str], other_words: Collection[str], vocabulary: Collection[str]):
        """Prepare the look-up.

        names        words that may be misspelt, the more frequent first
        other_words  words that resemble a name but are not one
        vocabulary   words that need no correction
        """
        self._names: dict[str, list[str]] = {}
        for name in names:
            for letter in dict.fromkeys(name[:2] if len(name) >= _LONG else name[0]):
                self._names.setdefault(letter, []).append(name)
        self._corrections = {word: word for word in (*vocabulary, *other_words)}

    def correct(self, words: Sequence[str]) -> list[str]:
        """Return `words` with misspelt names corrected."""
        corrections = self._corrections
        return [corrections[word] if word in corrections else self._correct(word) for word in words]

    def _correct(self, word: str) -> str:
        """Find the correction of a word, and remember it."""
        best = word
        if len(word) >= _SHORTEST and word.isalpha():
            distance, letters = _allowed_errors(word) + 1, set(word)
            for name in self._candidates(word):
                limit = min(_allowed_errors(name), distance - 1)
                if name[0] != word[0]:
                    limit = min(limit, 1)  # an error in the first letter is rare
                if abs(len(name) - len(word)) > limit or len(letters.symmetric_difference(name)) > 2 * limit:
                    continue  # an error changes the length by at most 1, and the set of letters by at most 2
                if (errors := typing_errors(word, name, limit)) <= limit:
                    best, distance = name, errors
        self._corrections[word] = best
        return best

    def _candidates(self, word: str) -> list[str]:
        """Return the names with the same first letter; if they are long, also those whose second letter fits."""
        names = self._names.get(word[0], [])
        return names if len(word) < _LONG - 1 else [*names, *self._names.get(word[1], [])]


def _allowed_errors(word: str) -> int:
    return 2 if len(word) >= _LONG else 1


def typing_errors(first: str, second: str, limit: int) -> int:
    """Return how many letters to insert, delete, replace or swap with a neighbour turn one word into another.

    Above `limit`, any number above `limit` is returned.
    """
    before: list[int] = []
    previous = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second, 1):
            errors = min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (letter != other))
            if row > 1 and column > 1 and letter == second[column - 2] and first[row - 2] == other:
                errors = min(errors, before[column - 2] + 1)
            current.append(errors)
        if min(current) > limit and min(previous) >= limit:  # a swap continues from the row before
            return limit + 1
        before, previous = previous, current
    return previous[-1]
