"""Reward training of the smallest SGRRG: a checkpoint to start from, and trainers."""

from pathlib import Path
from unittest import mock

import torch
from torch import nn

from data.vocabulary import Vocabularies
from models.patch_encoder import PatchEncoder
from models.sgrrg import SGRRG
from modules import builders
from modules.builders import build_criterion, build_dataset, build_model, build_validator, build_vocabularies
from modules.checkpoint import save_checkpoint
from modules.config import Config, load_config
from modules.stages.building import build_stage
from modules.training.trainer import Trainer
from modules.training.validation import ValidationScores
from tests.support.tiny_model import CHANNELS, enliven, tiny_trunk
from tests.support.tiny_training import CPU, SMALLEST_SGRRG, ScriptedEvaluator, tiny_settings

REWARDED = [
    "train.stage=reward", "train.graph_source=predicted", "reward.rewards=length + cider + 0 * rouge_l",
    "reward.samples=3", "reward.workers=1", "reward.watch=[bleu_4]",
]
# Gradients that do not depend on the process: without dropout, and without the one term that pairs studies.
REPEATABLE = ["model.dropout=0", "model.image_dropout=0", "loss.contrast=0", "data.micro_batch_size=null"]


def keep_running_statistics(model: nn.Module) -> None:
    """BatchNorm in evaluation mode: a study does not depend on the others of its batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def small_model(config: Config, vocabularies: Vocabularies) -> SGRRG:
    """The model with a trunk of two convolutions and BatchNorm: most time of a run would go into that of the others."""
    trunk = nn.Sequential(tiny_trunk(), nn.BatchNorm2d(CHANNELS))
    with mock.patch.object(builders, "build_patch_encoder", lambda *_: PatchEncoder(trunk, CHANNELS)):
        return build_model(config, vocabularies)


def reward_config(folder: Path, *overrides: str) -> Config:
    """The configuration of a run in `folder`, which starts from a lively checkpoint that is written if absent."""
    settings = [*tiny_settings(folder), *SMALLEST_SGRRG, *REWARDED, f"train.init_from={folder / 'start'}", *overrides]
    config = load_config(None, settings)
    if not (folder / "start").exists():
        vocabularies = build_vocabularies(config)
        torch.manual_seed(1)
        model = small_model(config, vocabularies)
        enliven(model)
        save_checkpoint(folder / "start", model, config, vocabularies)
    return config


def reward_trainer(folder: Path, *overrides: str, evaluator: ScriptedEvaluator | None = None) -> Trainer:
    """A trainer of reward training with scripted validations."""
    config = reward_config(folder, *overrides)
    vocabularies: Vocabularies = build_vocabularies(config)
    torch.manual_seed(config.seed)
    training = build_dataset(config, vocabularies, "train", train=True)
    criterion, stage = build_stage(
        config, vocabularies, build_criterion(config, vocabularies), build_validator(config, vocabularies, training),
        training,
    )
    return Trainer(
        config=config, vocabularies=vocabularies, model=small_model(config, vocabularies), criterion=criterion,
        evaluator=evaluator or ScriptedEvaluator(), train_dataset=training,
        validation_dataset=build_dataset(config, vocabularies, "val"), device=CPU, stage=stage,
    )


class GuardedEvaluator(ScriptedEvaluator):
    """Returns the scores of `scripts` in turn; the last one is repeated."""

    def __init__(self, *scripts: dict[str, float]):
        super().__init__()
        self.scripts = scripts
        self.names: tuple[str, ...] = ()

    def validate(self, model, loader, device, names, meteor=True, should_stop=None) -> ValidationScores:
        super().validate(model, loader, device, names, meteor, should_stop)
        self.names = names
        return ValidationScores(dict(self.scripts[min(self.calls, len(self.scripts)) - 1]), {})
