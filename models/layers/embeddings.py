"""Token embeddings with sinusoidal positions."""

import math

import torch
from torch import Tensor, nn

from models.rows import Rows


def sinusoidal_positions(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """[length, width]: sine on even, cosine on odd channels (Vaswani et al., "Attention is all you need", 2017)."""
    positions = torch.arange(length, dtype=torch.float32, device=device).unsqueeze(1)
    channels = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    frequencies = torch.exp(channels * (-math.log(10000.0) / width))
    table = torch.zeros(length, width, device=device)
    table[:, 0::2] = torch.sin(positions * frequencies)
    table[:, 1::2] = torch.cos(positions * frequencies)
    return table


class WordEmbedding(nn.Module):
    """Token embedding scaled by sqrt(D), plus the position, then dropout."""

    rows = {"tokens.weight": Rows.WORDS}

    def __init__(self, words: int, width: int, longest: int, dropout: float = 0.0):
        super().__init__()
        assert width % 2 == 0, f"sinusoidal positions need an even width, not {width}"
        self.tokens = nn.Embedding(words, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("positions", sinusoidal_positions(longest, width), persistent=False)

    def forward(self, token_ids: Tensor, first_position: int = 0) -> Tensor:
        """Embed `token_ids` [B, T], the first of which is at `first_position` in the report: [B, T, D].

        Raises ValueError for a report longer than the table of positions.
        """
        last = first_position + token_ids.shape[1]
        if last > len(self.positions):
            raise ValueError(f"a report of {last} tokens, but the model has {len(self.positions)} positions")
        embedded = self.tokens(token_ids) * math.sqrt(self.tokens.embedding_dim)
        return self.dropout(embedded + self.positions[first_position:last])
