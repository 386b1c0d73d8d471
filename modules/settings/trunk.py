"""Settings of the trunk."""

from dataclasses import dataclass


@dataclass
class PatchEncoderConfig:
    """The trunk.

    backbone   small_resnet; a torchvision classifier (resnet101, densenet121, swin_b); timm:NAME; hf:REPO or hf:FOLDER
               (transformers); xrv:NAME (torchxrayvision). See docs/trunks.md
    stride     side of a patch in pixels: 16 or 32, if the trunk offers it; null: the trunk's own, which is 32 for CNNs
               and Swin, and the patch size for other vision transformers
    weights    pretrained (the library's of this name; a run's config.yaml names their version), none, or a file; for
               torchvision also imagenet_v1 or imagenet_v2, its versions (the R2Gen family used imagenet_v1)
    stochastic_depth   probability of skipping the last residual block of a Swin, ConvNeXt or EfficientNet in training,
               linearly less for earlier ones; null: the library's (torchvision: 0.5 for swin_b)
    architecture   of an hf: trunk, as JSON; null: read from the repository. A run's config.yaml has it, so that its
               checkpoints load without the hub
    """

    backbone: str = "resnet101"
    stride: int | None = None
    weights: str = "pretrained"
    stochastic_depth: float | None = None
    architecture: str | None = None
