"""Writes a checkpoint as a folder for the Hugging Face hub, and checks it.

    README.md            model card, with the scores of the run's metrics.json
    config.json, config.yaml   the configuration, for the hub and for this program
    vocabularies.json    regions, attributes, observations and words
    model.safetensors    the weights
    manifest.json        size and SHA-256 of the configuration, the vocabularies and the weights
    thresholds.json      if they are tuned; the programs have them built in
    metrics.json         if the run has one
    encoder.pt2          torch.export: images -> graph, memory and the decoder's first state (`ExportedEncoder`)
    decoder_step.pt2     torch.export: previous words -> logits of the next one (`ExportedDecoderStep`)

The folder is also a checkpoint.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from data.errors import UserError, cannot_write, damaged, reason
from modules.checkpoint import (
    CONFIG,
    EXPORTED_WEIGHTS,
    THRESHOLDS,
    VOCABULARIES,
    Checkpoint,
    load_checkpoint,
    thresholds_to_json,
)
from modules.config import Config, config_to_yaml
from modules.inference.exported_programs import export_programs
from modules.inference.model_card import model_card
from modules.saving.manifest import MANIFEST, MARK, build_manifest


def export_checkpoint(checkpoint_path: str | Path, out: str | Path) -> dict[str, float]:
    """Write the folder `out`.

    Returns the largest difference between each program and the model, by file name. Raises UserError if the checkpoint
    cannot be used, `out` exists or cannot be written, or the written files do not reproduce the model; there is then no
    folder.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists: delete it, or give another --out")
    checkpoint = load_checkpoint(checkpoint_path)
    checkpoint.check_writes_reports()
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_weights(partial, checkpoint)
        check_weights(partial, checkpoint)
        differences = export_programs(partial, checkpoint)
        partial.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return differences


def write_weights(folder: Path, checkpoint: Checkpoint) -> None:
    """Write everything except the programs."""
    config = portable(checkpoint.config)
    settings = config_to_yaml(config)
    hub_config = {"model_type": "sgrrg", "architectures": ["SGRRG"], **yaml.safe_load(settings)}
    metrics = read_metrics(checkpoint)
    try:
        card = model_card(config, checkpoint.vocabularies, metrics, checkpoint.thresholds)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"metrics.json of this run is damaged or from an older version ({reason(error)}): run main_test.py again, "
            "or delete it"
        ) from error
    texts = {
        CONFIG: MARK.decode() + settings,
        "config.json": _to_json(hub_config),
        VOCABULARIES: json.dumps(checkpoint.vocabularies.to_dict(), ensure_ascii=False),
        "README.md": card,
    }
    if checkpoint.thresholds is not None:
        texts[THRESHOLDS] = thresholds_to_json(checkpoint.thresholds)
    if metrics is not None:
        texts["metrics.json"] = _to_json(metrics | {"checkpoint": config.name})
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = {name: value.contiguous() for name, value in checkpoint.weights.items()}
    save_file(weights, folder / EXPORTED_WEIGHTS, metadata={"format": "pt"})
    (folder / MANIFEST).write_bytes(build_manifest(folder, [CONFIG, VOCABULARIES, EXPORTED_WEIGHTS]))


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def portable(config: Config) -> Config:
    """`config` without local paths and without settings that matter for training only."""
    folders = [f"data/{root.name}" for root in config.data.roots]
    root = folders if len(folders) > 1 else folders[0]
    data = replace(config.data, root=root, boxes_file=None, atlas_file=None)
    trunk = replace(config.model.patch_encoder, weights="none")
    return replace(
        config, results="results", data=data, model=replace(config.model, patch_encoder=trunk),
        train=replace(config.train, init_from=None, resume=False, device="auto"),
    )


def read_metrics(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The content of metrics.json of the run; None if absent, or if another checkpoint was tested."""
    directory = checkpoint.directory
    for folder in (directory, directory.parent):
        path = folder / "metrics.json"
        if path.is_file():
            try:
                metrics = json.loads(path.read_text(encoding="utf-8"))
                tested = Path(metrics["checkpoint"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                raise damaged(path, reason(error), "run main_test.py again, or delete it") from error
            return metrics if folder == directory or tested.name == directory.name else None
    return None


def check_weights(folder: Path, checkpoint: Checkpoint) -> None:
    """Load `folder` as a checkpoint. Raises UserError unless it equals `checkpoint` bit by bit."""
    loaded = load_checkpoint(folder)
    same_weights = loaded.weights.keys() == checkpoint.weights.keys() and all(
        value.dtype == loaded.weights[name].dtype and torch.equal(value, loaded.weights[name])
        for name, value in checkpoint.weights.items()
    )
    same_vocabularies = loaded.vocabularies.to_dict() == checkpoint.vocabularies.to_dict()
    same_thresholds = loaded.thresholds == checkpoint.thresholds
    if not (same_weights and same_vocabularies and same_thresholds and loaded.config == portable(checkpoint.config)):
        raise UserError(f"{folder} differs from the checkpoint {checkpoint.directory} when read back: check the disk")
