"""Made-up checkpoint files of the published release, with a small Swin in place of its Swin-B.

Names and shapes come from here and from `benchmarks/support/published.py`, independently of
`modules/release/published_weights.py`.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from benchmarks.support.published import PublishedModel
from tests.support.published_swin import published_swin_shapes, random_weights

ATTRIBUTES = [region % 4 + 1 for region in range(29)]
WORDS = [".", "<unk>", *(f"word{number:02}" for number in range(18))]  # ids 1 to 20; 0 is BOS, EOS and padding
SLOTS, WIDTH, HIDDEN, LONGEST = 6, 16, 24, 12
# Settings that the weights do not determine.
OVERRIDES = ["model.heads=2", "model.memory_heads=4", "model.memory_top=3", f"data.max_tokens={LONGEST}"]
SMALL_SWIN = {"embed": 8, "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 4), "window": 7}
TRUNK = "visual_extractor.model."


def published_model() -> PublishedModel:
    torch.manual_seed(3)
    model = PublishedModel(
        8 * SMALL_SWIN["embed"], WIDTH, 2, HIDDEN, 1, 2, 1, len(WORDS) + 1, LONGEST, 14, ATTRIBUTES, SLOTS, 4, 3
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def small_swin(window: int = 7) -> SwinTransformer:
    return SwinTransformer(
        [4, 4], SMALL_SWIN["embed"], list(SMALL_SWIN["depths"]), list(SMALL_SWIN["heads"]), [window, window],
        stochastic_depth_prob=0.0,
    )


def release_state(prefix: str = "") -> dict[str, Tensor]:
    """A state dict of the release, including buffers and the classification head of the trunk."""
    state = published_model().state_dict()
    state |= {TRUNK + name: value for name, value in random_weights(published_swin_shapes(**SMALL_SWIN)).items()}
    state["word_embedding.pe"] = torch.zeros(1, 5000, WIDTH)
    state[TRUNK + "layers.0.blocks.0.attn_mask"] = torch.zeros(64, 49, 49)
    state[TRUNK + "layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state[TRUNK + "head.weight"] = torch.zeros(1000, 64)
    return {prefix + name: value for name, value in state.items()}


# The names in `release_state` that a conversion does not use.
UNUSED = sorted(["word_embedding.pe", *(TRUNK + name for name in (
    "layers.0.blocks.0.attn_mask", "layers.0.blocks.0.attn.relative_position_index", "head.weight"))])


def write_release(path: Path, state: dict[str, Tensor]) -> Path:
    """Write a file like that of the release's trainer, with the states of torch's optimizer, scheduler and scaler."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 4])
    assert isinstance(schedule.state_dict()["milestones"], Counter)
    content = {
        "epoch": 9, "state_dict": state, "lr_scheduler": schedule.state_dict(), "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(), "monitor_best": np.float64(0.3),
        "monitor_test_best": 0.2, "best_epoch": 7,
    }
    torch.save(content, path)
    return path
