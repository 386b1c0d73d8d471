"""The tokenizer: words and their ids, compatible with the R2Gen family."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from data.sections.marked_text import MARKERS

UNKNOWN_WORD = "<unk>"


def fingerprint(content: Any) -> str:
    """Return a hash of plain JSON as 16 hex digits, independent of the order of keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Tokenizer:
    """Encodes cleaned reports as ids, one per word.

    The words, including "<unk>", have the ids 1, 2, ... in alphabetical order. With `distinct_special_tokens`, padding
    has id 0, and BOS and EOS have the last two ids; without, all three share id 0, as in the family's checkpoints.

    pad_id, bos_id, eos_id, unk_id   ids of the special tokens
    words                            the words of ids 1, 2, ...
    """

    def __init__(self, words: Sequence[str], distinct_special_tokens: bool):
        """Create the tokenizer.

        words  in the order of their ids. Raises ValueError if they contain duplicates or lack "<unk>"
        """
        self.words = tuple(words)
        self.distinct_special_tokens = distinct_special_tokens
        self._ids = {word: index for index, word in enumerate(self.words, start=1)}
        if len(self._ids) != len(self.words) or UNKNOWN_WORD not in self._ids:
            raise ValueError(f"A tokenizer needs every word once, including {UNKNOWN_WORD}")
        self.pad_id = 0
        self.bos_id = len(self.words) + 1 if distinct_special_tokens else 0
        self.eos_id = len(self.words) + 2 if distinct_special_tokens else 0
        self.unk_id = self._ids[UNKNOWN_WORD]

    @classmethod
    def from_reports(cls, reports: Iterable[str], min_count: int, distinct_special_tokens: bool) -> "Tokenizer":
        """Create the tokenizer of the words that occur at least `min_count` times in the cleaned `reports`."""
        counts = Counter(word for report in reports for word in report.split())
        return cls.from_counts(counts, min_count, distinct_special_tokens)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int, distinct_special_tokens: bool) -> "Tokenizer":
        """Create the tokenizer of the words with a count (word -> occurrences) of at least `min_count`."""
        frequent = {word for word, count in counts.items() if count >= min_count}
        return cls(sorted(frequent | {UNKNOWN_WORD}), distinct_special_tokens)

    @classmethod
    def from_dict(cls, content: dict) -> "Tokenizer":
        """Create the tokenizer from the content of `to_dict`."""
        return cls(content["words"], content["distinct_special_tokens"])

    def to_dict(self) -> dict:
        """Return plain JSON for `from_dict`."""
        return {"words": list(self.words), "distinct_special_tokens": self.distinct_special_tokens}

    @property
    def marks_sections(self) -> bool:
        """Whether it has the words that mark the sections of reports, which reports then have."""
        return all(marker in self._ids for marker in MARKERS.values())

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for tokenizers that assign the same ids."""
        return fingerprint(self.to_dict())

    def __len__(self) -> int:
        """Number of ids, including special tokens."""
        return len(self.words) + (3 if self.distinct_special_tokens else 1)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Return the ids of BOS, a cleaned report and EOS; the report is truncated to `max_tokens` ids in total."""
        words = text.split()[: max_tokens - 2]
        return [self.bos_id, *(self._ids.get(word, self.unk_id) for word in words), self.eos_id]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Return the words up to EOS; BOS at the start is optional, and padding is skipped."""
        words = []
        for position, token in enumerate(int(token) for token in ids):
            if position == 0 and token == self.bos_id:
                continue
            if token == self.eos_id:
                break
            if token not in (self.pad_id, self.bos_id):
                words.append(self.words[token - 1])
        return " ".join(words)

    def protocol_reference(self, text: str, max_tokens: int) -> str:
        """Return the reference of the R2Gen protocol: the first `max_tokens` - 1 words, with "<unk>" for unknown words.

        The family scores against its token sequence, which starts with BOS and is truncated to `max_tokens` ids.
        """
        return " ".join(word if word in self._ids else UNKNOWN_WORD for word in text.split()[: max_tokens - 1])
