"""The names of Swin's weights: torchvision's, and those in the files of Microsoft's implementation.

Liu et al., "Swin Transformer: hierarchical vision transformer using shifted windows", ICCV 2021.
"""

import re

# A weight that identifies the files of Microsoft's Swin.
MICROSOFT_SWIN = "patch_embed.proj.weight"

# Names of torchvision's Swin -> Microsoft's, without those of the stages: torchvision keeps stages and patch mergings
# in a single list.
_RENAMES = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)


def microsoft_swin_name(name: str) -> str:
    """Return the name that Microsoft's Swin gives to the parameter `name` of torchvision's."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    block = re.match(r"^features\.(\d+)\.(.*)", name)
    if not block:
        return name
    stage, rest = (int(block[1]) - 1) // 2, block[2]
    return f"layers.{stage}.blocks.{rest}" if int(block[1]) % 2 else f"layers.{stage}.downsample.{rest}"
