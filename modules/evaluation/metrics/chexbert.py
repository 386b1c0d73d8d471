"""CheXbert (Smit et al., EMNLP 2020) as a labeler: BERT with one linear head for each of the 14 observations.

We cannot distribute the weights. Put the authors' `chexbert.pth` into a folder, together with the `vocab.txt` of
bert-base-uncased. The sizes of the model are read from the weights. Needs `requirements-metrics.txt`.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from data.errors import UserError, missing, reason, wrong_format
from models.trunks.weight_files import read_weights
from modules.evaluation.metrics.labelers import ReportLabeler

# In the order of the published heads. The last head has only the values blank and present, the others all four.
_HEADS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)
_VALUES = (None, 1, 0, -1)  # blank, present, absent, uncertain
_HEAD_WIDTH = 64  # width of one attention head, the same in all sizes of BERT
_BATCH = 32
_WEIGHTS, _VOCABULARY = "chexbert.pth", "vocab.txt"
_DOWNLOAD = {
    _WEIGHTS: "download the authors' weights (github.com/stanfordmlgroup/CheXbert)",
    _VOCABULARY: "download it from bert-base-uncased (huggingface.co)",
}


def load_chexbert(folder: Path) -> ReportLabeler:
    """Load the labeler from `folder`. Raises UserError if a file or the package is missing or wrong."""
    if find_spec("transformers") is None:
        raise UserError("CheXbert needs the package transformers: pip install -r requirements-metrics.txt")
    for name, fix in _DOWNLOAD.items():
        if not (folder / name).is_file():
            raise missing("file that CheXbert needs", folder / name, fix)
    try:
        weights = {name.removeprefix("module."): tensor for name, tensor in read_weights(folder / _WEIGHTS).items()}
        return CheXbert(weights, folder / _VOCABULARY)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        expected = f"a checkpoint of CheXbert ({reason(error)})"
        raise wrong_format(folder / _WEIGHTS, expected, "download it again") from error


class CheXbert:
    """The `ReportLabeler` that predicts the 14 observations with CheXbert."""

    name = "chexbert"

    def __init__(self, weights: dict[str, Tensor], vocabulary: Path):
        """`weights` by their published names; `vocabulary` is a file with one word piece per line."""
        from tokenizers import BertWordPieceTokenizer
        from transformers import BertConfig, BertModel

        vocabulary_size, width = weights["bert.embeddings.word_embeddings.weight"].shape
        max_tokens = len(weights["bert.embeddings.position_embeddings.weight"])
        layers = {name.split(".")[3] for name in weights if name.startswith("bert.encoder.layer.")}
        self._bert = BertModel(BertConfig(
            vocab_size=vocabulary_size, hidden_size=width, num_hidden_layers=len(layers),
            num_attention_heads=width // _HEAD_WIDTH, max_position_embeddings=max_tokens,
            intermediate_size=len(weights["bert.encoder.layer.0.intermediate.dense.weight"]),
        ))
        self._heads = nn.ModuleList([
            nn.Linear(width, 2 if name == "No Finding" else len(_VALUES)) for name in _HEADS
        ])
        # Older releases of transformers stored the position ids 0, 1, ... with the weights.
        state = {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
        nn.ModuleDict({"bert": self._bert, "linear_heads": self._heads}).load_state_dict(state)
        self._bert.eval()
        self._tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(pad_id=self._tokenizer.token_to_id("[PAD]"))

    @torch.inference_mode()
    def label(self, reports: Sequence[str]) -> list[dict[str, int]]:
        """See `ReportLabeler.label`. Reports of similar length share a batch, to reduce padding."""
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
