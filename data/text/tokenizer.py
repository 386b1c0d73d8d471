"""Words and their ids, by the rule of the R2Gen family."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

UNKNOWN_WORD = "<unk>"


def fingerprint(content: Any) -> str:
    """Sixteen hex digits that tell one plain-JSON `content` from another, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Tokenizer:
    """The ids of the words of cleaned reports.

    Words have ids 1, 2, ... in alphabetical order, "<unk>" among them. With `distinct_special_tokens` id 0 is padding,
    and BOS and EOS are the last two ids; without, id 0 is all three, as in the family's own checkpoints.

    pad_id, bos_id, eos_id, unk_id   int
    words                            the words of ids 1, 2, ...
    """

    def __init__(self, words: Sequence[str], distinct_special_tokens: bool):
        """`words` in the order of their ids, which start at 1; "<unk>" among them, none twice, else ValueError."""
        self.words = tuple(words)
        self.distinct_special_tokens = distinct_special_tokens
        self._ids = {word: index for index, word in enumerate(self.words, start=1)}
        if len(self._ids) != len(self.words) or UNKNOWN_WORD not in self._ids:
            raise ValueError(f"A tokenizer needs every word once and {UNKNOWN_WORD} among them")
        self.pad_id = 0
        self.bos_id = len(self.words) + 1 if distinct_special_tokens else 0
        self.eos_id = len(self.words) + 2 if distinct_special_tokens else 0
        self.unk_id = self._ids[UNKNOWN_WORD]

    @classmethod
    def from_reports(cls, reports: Iterable[str], min_count: int, distinct_special_tokens: bool) -> "Tokenizer":
        """The words that occur at least `min_count` times in the cleaned `reports`."""
        counts = Counter(word for report in reports for word in report.split())
        kept = {word for word, count in counts.items() if count >= min_count}
        return cls(sorted(kept | {UNKNOWN_WORD}), distinct_special_tokens)

    @classmethod
    def from_dict(cls, content: dict) -> "Tokenizer":
        """The tokenizer that `to_dict` described."""
        return cls(content["words"], content["distinct_special_tokens"])

    def to_dict(self) -> dict:
        """Plain JSON that `from_dict` reads."""
        return {"words": list(self.words), "distinct_special_tokens": self.distinct_special_tokens}

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give equal ids."""
        return fingerprint(self.to_dict())

    def __len__(self) -> int:
        """Number of ids, special ones included."""
        return len(self.words) + (3 if self.distinct_special_tokens else 1)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """BOS, the words of a cleaned report, EOS: at most `max_tokens` ids, of which EOS is always the last."""
        words = text.split()[: max_tokens - 2]
        return [self.bos_id, *(self._ids.get(word, self.unk_id) for word in words), self.eos_id]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The words up to EOS, with or without a BOS in front; padding is skipped."""
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
        """The reference of the R2Gen protocol: the first `max_tokens` - 1 words of a cleaned report, rare ones "<unk>".

        The family scores against its own token sequence, which starts with BOS and is cut to `max_tokens` ids.
        """
        return " ".join(word if word in self._ids else UNKNOWN_WORD for word in text.split()[: max_tokens - 1])
