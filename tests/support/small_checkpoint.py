"""Checkpoints of a model of two layers."""

from pathlib import Path

import torch
from torch import nn

from modules.checkpoint import save_checkpoint

STATE = {"position": {"step": 3, "best": None}, "random": torch.arange(4, dtype=torch.uint8), "list": [1, "a", 0.5]}


def model_of(value: float, size: int = 2) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, size), nn.BatchNorm1d(size))
    nn.init.constant_(model[0].weight, value)
    return model


def save(directory: Path, parts: tuple, value: float = 1.0, size: int = 2, state: dict | None = STATE) -> None:
    save_checkpoint(directory, model_of(value, size), *parts, training_state=state)
