"""The boxes that a trained localizer finds in the images of a prepared data set, as a file for `data.boxes_file`.

    python -m modules.region_boxes --checkpoint DIR --data PREPARED --out boxes.jsonl [--split val test] [key=value ...]

A line holds {"id": study, "boxes": {region: [x1, y1, x2, y2]}}: the regions that the localizer calls visible, xyxy in
0..1 of the frontal image. Studies without a frontal image have no line.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from data.errors import UserError
from data.loaders import evaluation_loader
from data.records import SPLITS
from models.sgrrg import SGRRG
from modules.builders import build_dataset, load_model
from modules.checkpoint import CONFIG, Checkpoint, load_checkpoint
from modules.config import Config, load_config
from modules.evaluation.evaluator import inference, progress
from modules.evaluation.results import write_atomically
from modules.runtime import autocast, select_device

_CORNER_DIGITS = 5


class BoxFinder(nn.Module):
    """The two parts of a model that boxes come from: images -> regions, and no reports."""

    def __init__(self, model: SGRRG):
        """Raises UserError for a model that has no localizer."""
        super().__init__()
        if model.graph is None or model.graph.localizer is None:
            raise UserError("This model has no localizer: give a checkpoint trained with model.localizer=true")
        self.patch_encoder = model.patch_encoder
        self.localizer = model.graph.localizer

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Frontal images [B, 3, H, H], normalised -> boxes [B, R, 4] in 0..1 and visible probabilities [B, R]."""
        every_view = torch.ones(len(images), 1, dtype=torch.bool, device=images.device)
        boxes, logits = self.localizer(self.patch_encoder(images.unsqueeze(1), every_view).frontal_grid)
        return boxes.float().clamp(0, 1), logits.float().sigmoid()


def build_box_finder(checkpoint: Checkpoint, config: Config) -> BoxFinder:
    """The box finder of a checkpoint. Raises UserError where its weights do not fit `config`, or for no localizer."""
    return BoxFinder(load_model(checkpoint, config))


def write_region_boxes(
    checkpoint_path: str | Path,
    root: str | Path,
    out: str | Path,
    splits: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Write the boxes of all studies of `splits` (None: of all that there are); returns the number of lines.

    Raises UserError for an unusable checkpoint or data set, and for a disk that refuses; there is then no file.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    settings = [
        f"data.root={root}",
        "data.views=1",
        "data.boxes_file=null",
        "data.cache_images=false",
        "data.eval_limit=null",
    ]
    config = load_config(checkpoint.directory / CONFIG, [*settings, *overrides])
    device = select_device(config.train.device)
    finder = build_box_finder(checkpoint, config).to(device)
    written = 0

    def lines() -> Iterator[str]:
        nonlocal written
        for split in splits or _splits_with_studies(Path(root)):
            for study_id, boxes in _boxes_of_split(finder, checkpoint, config, split, device):
                written += 1
                yield json.dumps({"id": study_id, "boxes": boxes}) + "\n"

    write_atomically(Path(out), lines())
    return written


def _splits_with_studies(root: Path) -> list[str]:
    """The splits for which dataset.yaml counts studies; all where it counts none (reading them then says why)."""
    try:
        description = yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))
        counts = description["counts"]
        return [split for split in SPLITS if counts.get(split)] or list(SPLITS)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return list(SPLITS)


def _boxes_of_split(
    finder: BoxFinder, checkpoint: Checkpoint, config: Config, split: str, device: torch.device
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Study id and boxes by region, study by study."""
    dataset = build_dataset(config, checkpoint.vocabularies, split)
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
            with autocast(config.train.precision, device):
                boxes, probabilities = finder(batch.images[:, 0].to(device, non_blocking=True))
            # A box without an area is none, whatever the localizer says of its visibility.
            shown = (probabilities > config.model.visible_threshold) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
            for study, study_id in enumerate(batch.study_ids):
                if batch.frontal[study]:
                    corners, seen = boxes[study].tolist(), shown[study].tolist()
                    yield (
                        study_id,
                        {
                            name: [round(corner, _CORNER_DIGITS) for corner in box]
                            for name, box, is_shown in zip(names, corners, seen, strict=True)
                            if is_shown
                        },
                    )


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--data", required=True, metavar="PREPARED", help="the prepared data set")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file of boxes to write")
    parser.add_argument("--split", nargs="+", choices=SPLITS, metavar="SPLIT", help="these splits; default: all")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings, e.g. eval.batch_size=64")
    options = parser.parse_intermixed_args(arguments)
    try:
        written = write_region_boxes(options.checkpoint, options.data, options.out, options.split, options.overrides)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"written: {options.out}, boxes of {written} studies")
    return 0


if __name__ == "__main__":
    sys.exit(main())
