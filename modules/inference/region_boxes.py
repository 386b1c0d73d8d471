"""Region boxes of a trained localizer for a prepared data set: as a file, or in the data set's own graphs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from data.errors import UserError
from data.images.boxes import boxes_array
from data.images.network_input import to_network_input
from data.loaders import evaluation_loader
from data.ontology import Anatomy
from data.records import count_studies
from data.sources.boxes import describe_boxes, replace_boxes
from models.sgrrg import SGRRG
from modules.builders import build_dataset, load_model
from modules.checkpoint import EXPORTED_WEIGHTS, WEIGHTS, Checkpoint, load_checkpoint
from modules.config import Config
from modules.evaluation.evaluator import check_finite, inference, progress
from modules.evaluation.results import write_atomically
from modules.runtime import autocast, select_device

_CORNER_DIGITS = 5


class BoxFinder(nn.Module):
    """The two parts of a model that predict boxes: patch encoder and localizer."""

    def __init__(self, model: SGRRG):
        """Raises UserError if the model has no localizer."""
        super().__init__()
        if model.graph is None or model.graph.localizer is None:
            raise UserError("This model has no localizer: give a checkpoint trained with model.localizer=true")
        self.patch_encoder = model.patch_encoder
        self.localizer = model.graph.localizer

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised frontal images [B, 3, H, H] -> boxes [B, R, 4] in 0..1 and probabilities of visibility [B, R]."""
        view_mask = torch.ones(len(images), 1, dtype=torch.bool, device=images.device)
        boxes, logits = self.localizer(self.patch_encoder(images.unsqueeze(1), view_mask).frontal_grid)
        return boxes.float().clamp(0, 1), logits.float().sigmoid()


def build_box_finder(checkpoint: Checkpoint, config: Config) -> BoxFinder:
    """Build the box finder of a checkpoint.

    Raises UserError if the weights do not fit `config`, or if the model has no localizer.
    """
    return BoxFinder(load_model(checkpoint, config))


def write_region_boxes(
    checkpoint_path: str | Path,
    root: str | Path,
    out: str | Path,
    splits: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Write the boxes of all studies of `splits` (None: all splits) to the file `out`; return the number of lines.

    Raises UserError if the checkpoint or the data set is unusable, or the file cannot be written; no file is left then.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    found = _find_boxes(checkpoint, Path(root), splits, overrides)
    written = 0

    def lines() -> Iterator[str]:
        nonlocal written
        for study_id, boxes in found:
            written += 1
            yield json.dumps({"id": study_id, "boxes": boxes}) + "\n"

    write_atomically(Path(out), lines())
    return written


def replace_region_boxes(checkpoint_path: str | Path, root: str | Path, overrides: Sequence[str] = ()) -> int:
    """Replace the boxes in the graphs of the prepared data set `root`; return the number of graphs with new boxes.

    See `data.sources.boxes.replace_boxes`. Raises UserError if the checkpoint or the data set is unusable, or the data
    set cannot be written; it is unchanged then.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    names = (name for name in (EXPORTED_WEIGHTS, WEIGHTS) if (checkpoint.directory / name).is_file())
    origin = describe_boxes(checkpoint.directory / next(names), "localizer")
    anatomy = Anatomy.load()
    found = _find_boxes(checkpoint, Path(root), None, overrides)
    boxes = {study_id: boxes_array(by_region, anatomy) for study_id, by_region in found}
    return replace_boxes(Path(root), boxes, origin, f"The localizer of {checkpoint_path}")


def _find_boxes(
    checkpoint: Checkpoint, root: Path, splits: Sequence[str] | None, overrides: Sequence[str]
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Build the box finder, then return an iterator over study ids and boxes by region."""
    settings = [
        f"data.root={root}",
        "data.views=1",
        "data.boxes_file=null",
        "data.cache_images=false",
        "data.eval_limit=null",
    ]
    config = checkpoint.load_config([*settings, *overrides])
    device = select_device(config.train.device)
    finder = build_box_finder(checkpoint, config).to(device)
    return (
        study
        for split in splits or [split for split, studies in count_studies(root).items() if studies]
        for study in _find_boxes_of_split(finder, checkpoint, config, split, device)
    )


def _find_boxes_of_split(
    finder: BoxFinder, checkpoint: Checkpoint, config: Config, split: str, device: torch.device
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Yield id and boxes by region of each study that has a frontal image."""
    dataset = build_dataset(config, checkpoint.vocabularies, split)
    dataset.check_files()
    names = checkpoint.vocabularies.anatomy.names
    loader = evaluation_loader(
        dataset,
        config.eval.batch_size,
        config.data.workers,
        rank=0,
        world_size=1,
        pad_id=checkpoint.vocabularies.tokenizer.pad_id,
        pin_memory=device.type == "cuda",
    )
    with inference(finder):
        for batch in progress(loader, f"boxes of the split {split}"):
            images = to_network_input(batch.to(device)).images[:, 0]
            with autocast(config.train.precision, device):
                boxes, probabilities = finder(images)
            check_finite(batch.study_ids, boxes, probabilities)
            # Boxes without an area are dropped, even if the localizer calls them visible.
            visible = (probabilities > config.model.visible_threshold) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
            for study, study_id in enumerate(batch.study_ids):
                if batch.frontal[study]:
                    corners, is_visible = boxes[study].tolist(), visible[study].tolist()
                    yield (
                        study_id,
                        {
                            name: [round(corner, _CORNER_DIGITS) for corner in box]
                            for name, box, seen in zip(names, corners, is_visible, strict=True)
                            if seen
                        },
                    )
