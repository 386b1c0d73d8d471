"""A run folder with an untrained model of a few thousand weights, and a data set for it."""

from pathlib import Path

import torch

from modules import builders
from modules.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from modules.config import load_config
from tests.support.checkpoint_files import update_manifest
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_model import enliven

TINY = [
    "data.image_size=32", "data.max_tokens=12", "data.min_word_count=1", "data.min_attribute_count=1", "data.workers=0",
    "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none", "model.patch_encoder.stride=16",
    "model.width=16", "model.heads=2", "model.feedforward=16", "model.image_layers=1", "model.graph_layers=1",
    "model.decoder_layers=1", "model.memory_slots=8", "model.memory_heads=2", "model.memory_top=4", "train.device=cpu",
    "eval.batch_size=2", "eval.beam_size=2", "seed=5",
]


def write_tiny_run(folder: Path, *overrides: str, lively: bool = False, views: int = 1) -> tuple[Path, Path]:
    """Write both into `folder`. Return the run folder, with a checkpoint `best`, and the root of the data set.

    overrides: key=value settings; lively: make reports and graphs differ between images; views: as in
    `write_tiny_dataset`.
    """
    root = write_tiny_dataset(folder / "tiny", image_size=32, views=views)
    save_tiny_run(folder / "run", root, *overrides, lively=lively)
    return folder / "run", root


def save_tiny_run(run_folder: Path, root: Path, *overrides: str, lively: bool = False) -> None:
    """Write the checkpoint `run_folder`/best of an untrained model for the data set `root`."""
    config = load_config(None, [*TINY, f"data.root={root}", *overrides])
    vocabularies = builders.build_vocabularies(config)
    torch.manual_seed(config.seed)
    model = builders.build_model(config, vocabularies)
    if lively:
        enliven(model)
    save_checkpoint(run_folder / "best", model, config, vocabularies)


def prefer_unknown_words(checkpoint: Path) -> None:
    """Change a checkpoint so that its model writes <unk> wherever it may, and ends no report."""
    loaded = load_checkpoint(checkpoint)
    bias = loaded.weights["decoder.word_head.bias"]
    tokenizer = loaded.vocabularies.tokenizer
    bias[tokenizer.unk_id] += 100
    bias[tokenizer.eos_id] -= 100
    torch.save(loaded.weights, checkpoint / WEIGHTS)
    update_manifest(checkpoint)
