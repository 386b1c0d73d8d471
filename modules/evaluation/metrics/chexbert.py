"""CheXbert (Smit et al., EMNLP 2020) as a labeler: BERT with one linear layer for each of the 14 observations.

The weights are not ours to ship. Put the authors' `chexbert.pth` into a folder, with the `vocab.txt` of
bert-base-uncased beside it. Sizes are read from the weights. Needs `requirements-metrics.txt`.
"""

import pickle
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from data.errors import UserError
from modules.evaluation.metrics.labelers import ReportLabeler

# The order of the published heads. The last one tells blank from present only, the others four values.
_HEADS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)
_VALUES = (None, 1, 0, -1)  # blank, present, absent, uncertain
_HEAD_WIDTH = 64  # of BERT's attention heads, whatever its size
_BATCH = 32
_WEIGHTS, _WORDS = "chexbert.pth", "vocab.txt"


def load_chexbert(folder: Path) -> ReportLabeler:
    """The labeler with the weights in `folder`. Raises UserError where a file or the package is missing."""
    if find_spec("transformers") is None:
        raise UserError("CheXbert needs the package transformers: pip install -r requirements-metrics.txt")
    for name in (_WEIGHTS, _WORDS):
        if not (folder / name).is_file():
            raise UserError(
                f"CheXbert needs {folder / name}, which is not there: fetch {_WEIGHTS} from its authors "
                f"(github.com/stanfordmlgroup/CheXbert) and {_WORDS} from bert-base-uncased"
            )
    try:
        state = torch.load(folder / _WEIGHTS, map_location="cpu", weights_only=True)["model_state_dict"]
        weights = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        return CheXbert(weights, folder / _WORDS)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder / _WEIGHTS} does not hold CheXbert's weights ({reason}): fetch it again") from error


class CheXbert:
    """The 14 observations by CheXbert; a `ReportLabeler`."""

    name = "chexbert"

    def __init__(self, weights: dict[str, Tensor], words: Path):
        """`weights` by their published names; `words` a file with a word piece a line."""
        from tokenizers import BertWordPieceTokenizer
        from transformers import BertConfig, BertModel

        pieces, width = weights["bert.embeddings.word_embeddings.weight"].shape
        longest = len(weights["bert.embeddings.position_embeddings.weight"])
        layers = {name.split(".")[3] for name in weights if name.startswith("bert.encoder.layer.")}
        self._bert = BertModel(BertConfig(
            vocab_size=pieces, hidden_size=width, num_hidden_layers=len(layers),
            num_attention_heads=width // _HEAD_WIDTH, max_position_embeddings=longest,
            intermediate_size=len(weights["bert.encoder.layer.0.intermediate.dense.weight"]),
        ))
        self._heads = nn.ModuleList([
            nn.Linear(width, 2 if name == "No Finding" else len(_VALUES)) for name in _HEADS
        ])
        # Older releases of transformers saved the numbers 0, 1, ... of positions as a weight.
        saved = {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
        nn.ModuleDict({"bert": self._bert, "linear_heads": self._heads}).load_state_dict(saved)
        self._bert.eval()
        self._tokenizer = BertWordPieceTokenizer(str(words), lowercase=True)
        self._tokenizer.enable_truncation(longest)
        self._tokenizer.enable_padding(pad_id=self._tokenizer.token_to_id("[PAD]"))

    @torch.inference_mode()
    def label(self, reports: Sequence[str]) -> list[dict[str, int]]:
        """As `ReportLabeler.label`. Reports of like length share a batch, so that little is padding."""
        labels: list[dict[str, int]] = [{} for _ in reports]
        by_length = sorted(range(len(reports)), key=lambda report: len(reports[report]))
        for start in range(0, len(by_length), _BATCH):
            batch = by_length[start : start + _BATCH]
            encoded = self._tokenizer.encode_batch([" ".join(reports[report].split()) for report in batch])
            ids, mask = (torch.tensor([getattr(each, name) for each in encoded]) for name in ("ids", "attention_mask"))
            first = self._bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]  # [B, width]
            for name, head in zip(_HEADS, self._heads, strict=True):
                for report, value in zip(batch, head(first).argmax(dim=1).tolist(), strict=True):
                    if _VALUES[value] is not None:
                        labels[report][name] = _VALUES[value]
        return labels
