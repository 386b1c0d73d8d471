"""Initial weights of a model, except those of its trunk."""

import torch
from torch import nn

from models.attribute_predictor import AttributePredictor
from models.family.cross_modal_memory import CrossModalMemory
from models.family.prototypes import Prototypes
from models.family.relational_memory import ConditionalNorm
from models.region_selector import RegionMemory
from models.sgrrg import SGRRG

# Of a part without published initial values of the R2Gen family.
_DEFAULT_STD = 0.02
# Linear layers that keep PyTorch's initial values in the R2Gen family.
_PYTORCHS = ("image_encoder.project", "decoder.word_head")


def initialise(model: SGRRG, std: float | None) -> None:
    """Draw the initial weights from torch's global generator.

    std   as the release of SGRRG does: normal(0, std), zero biases. None: as the R2Gen family does: Xavier uniform,
          biases and the first and last layer as PyTorch draws them

    Memories are normal(0, 1 / C) and prototypes normal(0, 1). The localizer's last layer is zero, so that its initial
    boxes are the mean boxes.
    """
    for name, module in model.named_modules():
        if name.startswith("patch_encoder"):
            continue
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            _initialise_layer(name, module, std)
        elif isinstance(module, AttributePredictor):
            nn.init.normal_(module.weight, std=_DEFAULT_STD if std is None else std)
            if module.name_weight is not None:
                nn.init.normal_(module.name_weight, std=_DEFAULT_STD if std is None else std)
        elif isinstance(module, RegionMemory):
            nn.init.normal_(module.slots, std=1 / module.slots.shape[1])
        elif isinstance(module, CrossModalMemory):
            nn.init.normal_(module.memory, std=1 / module.memory.shape[1])
        elif isinstance(module, Prototypes):
            nn.init.normal_(module.prototypes)
    for module in model.modules():
        if isinstance(module, ConditionalNorm):  # as published, so that its MLPs do not start at zero
            for layer in (*module.weight_change, *module.bias_change):
                if isinstance(layer, nn.Linear):
                    nn.init.constant_(layer.bias, 0.1)
    if model.graph is not None and model.graph.localizer is not None:
        torch.nn.init.zeros_(model.graph.localizer.shift.weight)


def _initialise_layer(name: str, layer: nn.Linear | nn.Conv2d | nn.Embedding, std: float | None) -> None:
    if std is not None:
        nn.init.normal_(layer.weight, std=std)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
    elif name not in _PYTORCHS:
        nn.init.xavier_uniform_(layer.weight)
