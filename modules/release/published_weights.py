"""Converts between the weights of the published SGRRG release and those of this repository.

The released state dict has one linear head per region and a padding row among its attribute embeddings; ours has a
single padded tensor of heads and no padding row. All other weights differ in name only.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from data.errors import UserError
from models.trunks.swin_names import microsoft_swin_name

TRUNK_PREFIX = "visual_extractor.model."

# (pattern, replacement): our name -> published name, applied in order to the whole name.
_RENAMES = (
    (r"^image_encoder\.project\.", "att_embed.0."),
    (r"^image_encoder\.project_norm\.", "att_embed.1."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^decoder\.embedding\.tokens\.", "word_embedding.word_embedding.lut."),
    (r"^decoder\.word_head\.", "rrg_head."),
    (r"^observation_head\.head\.", "dis_head.disease_head."),
    (r"^graph\.selector\.project\.", "region_selector.ff."),
    (r"^graph\.selector\.memory\.slots$", "region_selector.memory"),
    (r"^graph\.selector\.memory\.project\.", "region_selector.mem_proj."),
    (r"^graph\.selector\.memory\.", "region_selector.cmn."),
    (r"^graph\.selector\.fuse\.", "region_selector.fuse_proj.0."),
    (r"^graph\.selector\.head\.", "region_selector.region_head."),
    (r"^graph\.pooler\.project\.", "attribute_predictor.ff.0."),
    (r"^graph\.pooler\.norm\.", "attribute_predictor.ff.1."),
    (r"^graph\.encoder\.project\.", "scene_graph_encoder.proj."),
    (r"^graph\.encoder\.type_embedding\.", "scene_graph_encoder.token_type_embeddings."),
    (r"^graph\.encoder\.attribute_embedding\.", "scene_graph_encoder.att_embedding."),
    (r"^graph\.encoder\.attribute_norm\.", "scene_graph_encoder.att_norm."),
    (r"^graph\.encoder\.", "scene_graph_encoder.sg_encoder."),
    (r"\.self_attention\.attention\.", ".self_attn."),
    (r"\.self_attention\.norm\.", ".sublayer.0.norm."),
    (r"\.object_attention\.attention\.", ".cross_attn."),
    (r"\.object_attention\.norm\.", ".sublayer.1.norm."),
    (r"\.image_norm\.", ".sublayer.1.norm."),
    (r"\.graph_attention\.attention\.", ".cross_attn_sg."),
    (r"\.graph_attention\.norm\.", ".sublayer.2.norm."),
    (r"\.feed_forward\.feed_forward\.expand\.", ".feed_forward.w_1."),
    (r"\.feed_forward\.feed_forward\.contract\.", ".feed_forward.w_2."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)query\.", r"\1linears.0."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)key\.", r"\1linears.1."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)value\.", r"\1linears.2."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)output\.", r"\1linears.3."),
)
_SWIN = ("patch_encoder.trunk.features.", "patch_encoder.trunk.norm.")
# Parameters and buffers that the release does not have.
_UNPUBLISHED = ("graph.localizer.", "graph.atlas")


def official_trunk_name(name: str) -> str:
    """The published name of our Swin parameter `name`."""
    return TRUNK_PREFIX + microsoft_swin_name(name.removeprefix("patch_encoder.trunk."))


def official_name(name: str, decoder_has_graph: bool, objects_attend: bool) -> str:
    """The published name of our parameter `name`; not for attribute heads, which have no single one.

    decoder_has_graph  the decoder attends to a graph, so its layers have four sub-layers instead of three
    objects_attend     the graph encoder is `oa-d`, so its layers have three sub-layers instead of two
    """
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    name = name.replace(".image_attention.", ".cross_attn_img." if decoder_has_graph else ".cross_attn.")
    # The feed-forward part is the last sub-layer, so the number of its norm depends on the others.
    if name.startswith("decoder."):
        last = 3 if decoder_has_graph else 2
    elif name.startswith("scene_graph_encoder."):
        last = 2 if objects_attend else 1
    else:
        last = 1
    return name.replace(".feed_forward.norm.", f".sublayer.{last}.norm.")


def to_official(weights: dict[str, Tensor], attributes_per_region: list[int]) -> dict[str, Tensor]:
    """Our weights under their published names and shapes, without those of the localizer and the atlas.

    A trunk other than Swin has no published names and is left out. Raises ValueError for weights shared by attributes
    of the same name (`model.share_attribute_names`), which the published model does not have.
    """
    if "graph.attribute_predictor.name_weight" in weights:
        raise ValueError("the published model has no weights for model.share_attribute_names=true")
    decoder_has_graph, objects_attend = _sub_layers(weights)
    official: dict[str, Tensor] = {}
    for name, value in weights.items():
        if _is_unpublished(name):
            continue
        if name.startswith("patch_encoder."):
            if name.startswith(_SWIN):
                official[official_trunk_name(name)] = value
        elif name.startswith("graph.attribute_predictor."):
            kind = name.rsplit(".", 1)[1]
            for region, size in enumerate(attributes_per_region):
                official[f"attribute_predictor.attribute_heads.{region}.{kind}"] = value[region, :size]
        elif name == "graph.encoder.attribute_embedding.weight":
            padded = torch.cat([value, value.new_zeros(1, value.shape[1])])  # the release's padding row
            official[official_name(name, decoder_has_graph, objects_attend)] = padded
        else:
            official[official_name(name, decoder_has_graph, objects_attend)] = value
    return official


def from_official(
    official: dict[str, Tensor], names: list[str], attributes_per_region: list[int]
) -> tuple[dict[str, Tensor], list[str]]:
    """The published weights under our parameter `names`, and the published names that were not used.

    Names that the release does not have (localizer, atlas, a trunk other than Swin) are left out. Raises UserError
    naming the published weight that is missing.
    """
    decoder_has_graph, objects_attend = _sub_layers(names)
    weights: dict[str, Tensor] = {}
    used: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in official:
            raise UserError(f"The published weights lack {name}: this is not a release checkpoint with these settings")
        used.add(name)
        return official[name]

    for name in names:
        if _is_unpublished(name):
            continue
        if name.startswith("patch_encoder."):
            if name.startswith(_SWIN):
                weights[name] = take(official_trunk_name(name))
        elif name.startswith("graph.attribute_predictor."):
            kind = name.rsplit(".", 1)[1]
            heads = [
                take(f"attribute_predictor.attribute_heads.{region}.{kind}")
                for region in range(len(attributes_per_region))
            ]
            weights[name] = torch.nn.utils.rnn.pad_sequence(heads, batch_first=True)
        else:
            value = take(official_name(name, decoder_has_graph, objects_attend))
            weights[name] = value[:-1] if name == "graph.encoder.attribute_embedding.weight" else value
    return weights, sorted(set(official) - used)


def _is_unpublished(name: str) -> bool:
    return name.startswith(_UNPUBLISHED) or name.endswith("relative_position_index")


def _sub_layers(names: Iterable[str]) -> tuple[bool, bool]:
    """The arguments `decoder_has_graph` and `objects_attend` of `official_name` for a model with these parameters."""
    names = list(names)
    return (
        any(name.startswith("decoder.layers.0.graph_attention.") for name in names),
        any(".object_attention." in name for name in names),
    )
