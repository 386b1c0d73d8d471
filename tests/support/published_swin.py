"""A Swin transformer with the published names, written independently of torchvision's."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Sizes of the Swin that `independent_swin` computes.
WINDOW = 4
STAGES = {"embed": 8, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "window": WINDOW}


def published_swin_shapes(embed: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> dict:
    """Names and shapes of the parameters of a published Swin (Liu et al., 2021), without buffers and head."""
    shapes = {
        "patch_embed.proj.weight": (embed, 3, 4, 4), "patch_embed.proj.bias": (embed,),
        "patch_embed.norm.weight": (embed,), "patch_embed.norm.bias": (embed,),
    }
    for stage, (depth, head) in enumerate(zip(depths, heads, strict=True)):
        width = embed * 2**stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}."
            for norm in ("norm1", "norm2"):
                shapes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
            linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (4 * width, width),
                       "mlp.fc2": (width, 4 * width)}
            for name, shape in linears.items():
                shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
            shapes[f"{at}attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, head)
        if stage < len(depths) - 1:
            at = f"layers.{stage}.downsample."
            shapes |= {f"{at}norm.weight": (4 * width,), f"{at}norm.bias": (4 * width,),
                       f"{at}reduction.weight": (2 * width, 4 * width)}
    last = embed * 2 ** (len(depths) - 1)
    return shapes | {"norm.weight": (last,), "norm.bias": (last,)}


def random_weights(shapes: dict, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}


def windows(maps: Tensor) -> Tensor:
    """Partition [B, H, W, C] into [B * windows, WINDOW ** 2, C], row by row."""
    studies, height, width, channels = maps.shape
    cut = maps.view(studies, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW**2, channels)


def swin_block(maps: Tensor, weights: dict[str, Tensor], at: str, heads: int, shift: int) -> Tensor:
    """x + windowed attention, then x + MLP, as published; maps [B, H, W, C]; at: prefix of the block's names."""
    studies, side, _, channels = maps.shape

    def part(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{at}{name}.weight"], weights[f"{at}{name}.bias"]

    normed = F.layer_norm(maps, [channels], *part("norm1")).roll((-shift, -shift), (1, 2))
    qkv = F.linear(windows(normed), *part("attn.qkv")).unflatten(-1, (3, heads, channels // heads))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / (channels // heads) ** 0.5
    row, column = torch.arange(WINDOW**2) // WINDOW, torch.arange(WINDOW**2) % WINDOW
    index = (row[:, None] - row + WINDOW - 1) * (2 * WINDOW - 1) + column[:, None] - column + WINDOW - 1
    scores = scores + weights[f"{at}attn.relative_position_bias_table"][index].permute(2, 0, 1)
    if shift:  # positions that are adjacent only because of the shift do not attend to each other
        band = torch.zeros(side)
        band[-WINDOW:], band[-shift:] = 1, 2
        zone = windows((band[:, None] * 3 + band)[None, :, :, None]).squeeze(-1)  # [windows, WINDOW ** 2]
        separate = (zone[:, :, None] != zone[:, None, :]).repeat(studies, 1, 1).unsqueeze(1)
        scores = scores.masked_fill(separate, -100.0)
    attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    attended = F.linear(attended, *part("attn.proj"))
    attended = attended.view(studies, side // WINDOW, side // WINDOW, WINDOW, WINDOW, channels)
    attended = attended.permute(0, 1, 3, 2, 4, 5).reshape(maps.shape).roll((shift, shift), (1, 2))
    maps = maps + attended
    hidden = F.gelu(F.linear(F.layer_norm(maps, [channels], *part("norm2")), *part("mlp.fc1")))
    return maps + F.linear(hidden, *part("mlp.fc2"))


def independent_swin(images: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """The outputs [B, H, W, C] of the embedding, of every block and patch merging, and of the final norm, in order."""
    maps = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    maps = maps.permute(0, 2, 3, 1)
    maps = F.layer_norm(maps, maps.shape[-1:], weights["patch_embed.norm.weight"], weights["patch_embed.norm.bias"])
    outputs = [maps]
    for stage, (depth, heads) in enumerate(zip(STAGES["depths"], STAGES["heads"], strict=True)):
        for block in range(depth):
            shift = WINDOW // 2 if block % 2 and maps.shape[1] > WINDOW else 0
            maps = swin_block(maps, weights, f"layers.{stage}.blocks.{block}.", heads, shift)
            outputs.append(maps)
        if stage < len(STAGES["depths"]) - 1:
            at = f"layers.{stage}.downsample."
            corners = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            merged = torch.cat(corners, -1)
            merged = F.layer_norm(merged, merged.shape[-1:], weights[f"{at}norm.weight"], weights[f"{at}norm.bias"])
            maps = F.linear(merged, weights[f"{at}reduction.weight"])
            outputs.append(maps)
    outputs.append(F.layer_norm(maps, maps.shape[-1:], weights["norm.weight"], weights["norm.bias"]))
    return outputs
