"""Loading the weights of a checkpoint into a model: all of them, or those that fit, matched by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from data.errors import UserError, truncate_list
from data.vocabulary import Vocabularies
from models.rows import Rows, row_meanings
from models.sgrrg import SGRRG
from models.trunks.torchvision_trunk import rename_earlier
from modules.checkpoint import Thresholds, load_checkpoint

Value = TypeVar("Value")

# The atlas boxes are among the weights, but belong to the vocabularies.
_ATLAS = "graph.atlas"


def with_current_names(model: SGRRG, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return `values`, by name of a weight, under the names that `model` has.

    The trunk's names are different in checkpoints of earlier versions (see `rename_earlier`).
    """
    patch_encoder = getattr(model, "patch_encoder", None)
    return rename_earlier(getattr(patch_encoder, "backbone", ""), values, "patch_encoder.trunk.")


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load `weights` into `model`. They may have the names of an earlier version.

    Raises UserError, naming the weights, if any is missing, unexpected or of another size; the model is then unchanged.
    """
    weights = with_current_names(model, weights)
    mismatches = _mismatches(model.state_dict(), weights)
    if mismatches:
        raise UserError(
            f"The checkpoint does not fit the model: {truncate_list(mismatches, '; ')}. Use the configuration that it "
            "was saved with"
        )
    model.load_state_dict(weights)


def init_weights_from(model: nn.Module, vocabularies: Vocabularies, path: str | Path) -> list[str]:
    """Load what fits of the checkpoint at `path`. Return a line for every weight that does not fit or fits in part.

    Rows that stand for words, attributes and so on are matched by their labels under the vocabularies of both sides
    (`vocabularies` are the model's), not by their index. The model keeps its atlas.
    """
    checkpoint = load_checkpoint(path)
    own = model.state_dict()
    weights = with_current_names(model, checkpoint.weights)
    weights.pop(_ATLAS, None)
    own.pop(_ATLAS, None)
    own_labels, loaded_labels = (_row_labels(model, each) for each in (vocabularies, checkpoint.vocabularies))
    lines = []
    for name in own.keys() & weights.keys() & own_labels.keys():
        if own_labels[name] == loaded_labels[name]:
            continue
        matched = _match_rows(own[name], weights[name], own_labels[name], loaded_labels[name])
        if matched is not None:
            weights[name] = matched
            unmatched = [label for label in own_labels[name] if label and label not in loaded_labels[name]]
            if unmatched:
                lines.append(f"{name} keeps {len(unmatched)} of its {len(own_labels[name])} rows, which are not in the "
                             f"checkpoint: {truncate_list(unmatched, ', ')}")
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return sorted(lines + _mismatches(own, weights))


def load_thresholds(model: SGRRG, vocabularies: Vocabularies, thresholds: Thresholds) -> None:
    """Set the tuned thresholds of the model's regions and attributes, matched by name; other names are ignored.

    vocabularies: the model's. A model without a scene graph has no thresholds.
    """
    parts = model.graph
    if parts is None:
        return
    for region, name in enumerate(vocabularies.anatomy.names):
        parts.region_thresholds[region] = thresholds.regions.get(name, parts.region_thresholds[region])
        for attribute, value in thresholds.attributes.get(name, {}).items():
            slot = vocabularies.attributes.index(region, attribute)
            if slot is not None:
                parts.attribute_thresholds[region, slot] = value
    parts.tuned_thresholds = bool(thresholds.regions or thresholds.attributes)


def _row_labels(model: nn.Module, vocabularies: Vocabularies) -> dict[str, list[str | None]]:
    """Weight -> the label of each of its rows under `vocabularies`; None for a row that stands for nothing."""
    tokenizer, attributes = vocabularies.tokenizer, vocabularies.attributes
    words = ["id of padding, BOS and EOS", *tokenizer.words]
    if tokenizer.distinct_special_tokens:
        words = ["id of padding", *tokenizer.words, "id of BOS", "id of EOS"]
    by_region = [
        [f"{region}: {attribute}" for attribute in names]
        for region, names in zip(vocabularies.anatomy.names, attributes.by_region, strict=True)
    ]
    labels: dict[Rows, list[str | None]] = {
        Rows.WORDS: words,
        Rows.REGIONS: list(vocabularies.anatomy.names),
        Rows.NODE_TYPES: [*vocabularies.anatomy.names, "attributes"],
        Rows.ATTRIBUTES: [name for names in by_region for name in names],
        Rows.ATTRIBUTE_SLOTS: [
            name for names in by_region for name in [*names, *[None] * (attributes.largest - len(names))]
        ],
        Rows.ATTRIBUTE_NAMES: list(dict.fromkeys(name for names in attributes.by_region for name in names)),
        Rows.OBSERVATIONS: list(vocabularies.observations),
    }
    return {weight: labels[rows] for weight, rows in row_meanings(model).items()}


def _match_rows(
    own: Tensor, loaded: Tensor, own_labels: list[str | None], loaded_labels: list[str | None]
) -> Tensor | None:
    """`own` with each row replaced by the row of `loaded` that has the same label, if there is one.

    None if the elements of the two cannot be distributed over rows of the same size.
    """
    if not own_labels or not loaded_labels or own.dim() != loaded.dim():
        return None
    size = own.numel() // len(own_labels)
    if own.numel() != size * len(own_labels) or loaded.numel() != size * len(loaded_labels):
        return None
    matched, rows = own.clone().reshape(len(own_labels), size), loaded.reshape(len(loaded_labels), size)
    index = {label: number for number, label in enumerate(loaded_labels) if label is not None}
    for number, label in enumerate(own_labels):
        if label in index:
            matched[number] = rows[index[label]].to(matched)
    return matched.reshape(own.shape)


def _mismatches(own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """Return one line for each name at which `weights` do not match `own`, the model's state dict."""
    lines = []
    for name in own.keys() | weights.keys():
        if name not in weights:
            lines.append(f"{name} {list(own[name].shape)} is not in the checkpoint")
        elif name not in own:
            lines.append(f"{name} {list(weights[name].shape)} is not in the model")
        elif own[name].shape != weights[name].shape:
            lines.append(
                f"{name} is {list(weights[name].shape)} in the checkpoint and {list(own[name].shape)} in the model"
            )
    return sorted(lines)
