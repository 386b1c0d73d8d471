"""Trainers on a few invented studies: of a model with a few hundred weights, and of the smallest SGRRG."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from data.batch import Batch
from data.vocabulary import Vocabularies
from models.layers.packing import Packing
from models.outputs import BoxSource, Encoded, GraphSource, ModelInputs, SGRRGOutput
from modules.builders import build_criterion, build_dataset, build_model, build_vocabularies
from modules.config import Config, load_config
from modules.evaluation.scoring import SCORE_NAMES
from modules.training.losses import Losses, ReportCriterion
from modules.training.trainer import Trainer
from modules.training.validation import EvaluationStopped, ValidationScores
from tests.support.tiny_dataset import write_tiny_dataset

CPU = torch.device("cpu")

# The smallest SGRRG with all parts.
SMALLEST_SGRRG = [
    "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none", "model.patch_encoder.stride=16",
    "model.width=32", "model.heads=4", "model.feedforward=32", "model.image_layers=1", "model.graph_layers=1",
    "model.decoder_layers=1", "model.memory_slots=16", "model.memory_heads=4", "model.memory_top=4",
]


def tiny_settings(folder: Path) -> list[str]:
    """Overrides for a run in `folder` on the data set `folder`/data, which is written if absent."""
    if not (folder / "data").exists():
        write_tiny_dataset(folder / "data", train=9, val=3, test=1, image_size=32)
    return [
        "name=run", f"results={folder / 'results'}", f"data.root={folder / 'data'}", "data.image_size=32",
        "data.max_tokens=12", "data.min_word_count=1", "data.min_attribute_count=1", "data.micro_batch_size=2",
        "data.workers=0", "optim.batch_size=4", "optim.warmup_steps=2", "train.epochs=3", "train.least_epochs=1",
        "train.log_every=1", "train.monitor=bleu_4", "train.device=cpu", "eval.meteor_in_validation=false",
    ]


class TinyModel(nn.Module):
    """Predicts tokens from the preceding token and the pooled image; with BatchNorm and dropout."""

    def __init__(self, words: int, observations: int, width: int = 6):
        super().__init__()
        self.patch_encoder = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=4), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.dropout = nn.Dropout(0.3)
        self.observations = nn.Linear(width, observations)
        self.words = nn.Embedding(words, width)
        self.decoder = nn.Linear(width, words)
        self.mixing_probabilities: list[float] = []

    def forward(
        self, inputs: ModelInputs, token_ids: Tensor, token_mask: Tensor, graph_source: GraphSource,
        box_source: BoxSource, mixing_probability: float = 0.0, with_region_attention: bool = False,
        image_attention_layer: int | None = None,
    ) -> SGRRGOutput:
        image = self.dropout(self.patch_encoder(inputs.images[:, 0]))
        self.mixing_probabilities.append(mixing_probability)
        encoded = Encoded(
            memory=image.unsqueeze(1), memory_mask=inputs.view_mask[:, :1], observation_logits=self.observations(image)
        )
        packing = Packing.from_mask(token_mask[:, 1:])
        rows = self.dropout(self.words(token_ids[:, :-1]) + image.unsqueeze(1))
        return SGRRGOutput(encoded, self.decoder(packing.pack(rows)), packing)


@dataclass
class ScriptedEvaluator:
    """Reads the validation split, draws a random number, and returns given scores.

    scores   BLEU-4 of each validation; the last one is repeated
    stop_in  number of the validation (from 1) in which SIGTERM is sent
    """

    scores: list[float | None] = field(default_factory=lambda: [0.5])
    stop_in: int | None = None
    graph_source: GraphSource = GraphSource.PREDICTED
    box_source: BoxSource = BoxSource.LOCALIZER
    calls: int = 0
    score_names: tuple[str, ...] = SCORE_NAMES

    def validate(self, model, loader, device, names, meteor=True, should_stop=None) -> ValidationScores:
        self.calls += 1
        torch.rand(1)
        for _ in loader:
            if self.calls == self.stop_in:
                os.kill(os.getpid(), signal.SIGTERM)
            if should_stop():
                raise EvaluationStopped
        score = self.scores[min(self.calls, len(self.scores)) - 1]
        absent = {"bleu_4": "no words"} if score is None else {}
        return ValidationScores({"bleu_4": score}, absent, {"bleu_4": 0.25})


class WatchedCriterion:
    """A criterion that sends SIGTERM, or returns NaN, at the micro-batch with a given number (from 1)."""

    def __init__(self, criterion: ReportCriterion, stop_at: int | None = None, spoil_at: int | None = None):
        self.criterion, self.stop_at, self.spoil_at = criterion, stop_at, spoil_at
        self.studies: list[list[str]] = []

    def counts(self, batch: Batch) -> Tensor:
        return self.criterion.counts(batch)

    def __call__(self, output: SGRRGOutput, batch: Batch, counts: Tensor, world_size: int = 1) -> Losses:
        self.studies.append(batch.study_ids)
        losses = self.criterion(output, batch, counts, world_size)
        if len(self.studies) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(self.studies) == self.spoil_at:
            losses.terms["report"] = losses.terms["report"] * torch.nan
            losses.total = losses.total * torch.nan
        return losses


def tiny_trainer(
    folder: Path, *overrides: str, evaluator: ScriptedEvaluator | None = None, stop_at: int | None = None,
    spoil_at: int | None = None, width: int = 6, vocabularies: Vocabularies | None = None,
) -> Trainer:
    """A trainer of a TinyModel."""
    config = load_config(None, tiny_settings(folder) + list(overrides))
    vocabularies = vocabularies or build_vocabularies(config)
    torch.manual_seed(config.seed)
    model = TinyModel(len(vocabularies.tokenizer), len(vocabularies.observations), width)
    criterion = WatchedCriterion(build_criterion(config, vocabularies), stop_at, spoil_at)
    return _trainer(config, vocabularies, model, criterion, evaluator or ScriptedEvaluator())


def smallest_sgrrg_trainer(folder: Path, *overrides: str) -> Trainer:
    """A trainer of the smallest SGRRG without dropout and with BatchNorm in eval mode: gradients are deterministic."""
    settings = [*tiny_settings(folder), *SMALLEST_SGRRG, "model.dropout=0", "model.image_dropout=0", *overrides]
    config = load_config(None, settings)
    vocabularies = build_vocabularies(config)
    torch.manual_seed(config.seed)
    model = build_model(config, vocabularies)
    trainer = _trainer(config, vocabularies, model, build_criterion(config, vocabularies), ScriptedEvaluator())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return trainer


def _trainer(
    config: Config, vocabularies: Vocabularies, model: nn.Module, criterion: object, evaluator: ScriptedEvaluator
) -> Trainer:
    return Trainer(
        config=config, vocabularies=vocabularies, model=model, criterion=criterion, evaluator=evaluator,
        train_dataset=build_dataset(config, vocabularies, "train", train=True),
        validation_dataset=build_dataset(config, vocabularies, "val"), device=CPU,
    )


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter that has one."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest relative L2 difference between gradients of the same parameter.

    For parameters whose gradient is only rounding error around zero (the bias of attention keys), the difference is
    relative to a millionth of the norm of the full gradient.
    """
    assert first.keys() == second.keys()
    total = torch.stack([gradient.norm() for gradient in first.values()]).norm()
    return max(
        float((first[name] - second[name]).norm() / torch.maximum(first[name].norm(), 1e-6 * total)) for name in first
    )
