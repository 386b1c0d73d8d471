"""The mapping between published weights and ours, in both directions."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import swin_b
from torchvision.models.swin_transformer import SwinTransformer

from data.errors import UserError
from models.patch_encoder import PatchEncoder
from models.sgrrg import SGRRG
from models.trunks.torchvision_trunk import extract_trunk
from modules.release.published_weights import TRUNK_PREFIX, from_official, official_trunk_name, to_official
from tests.support.published_swin import STAGES, WINDOW, independent_swin, published_swin_shapes, random_weights
from tests.support.tiny_model import ATTRIBUTES_PER_REGION, tiny_model, tiny_vocabularies

SIZES = list(ATTRIBUTES_PER_REGION)
UNPUBLISHED = ("graph.localizer.", "graph.atlas")
SWIN_B = {"embed": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "window": 7}
IMAGE_SIZE = 128


def with_swin(model: SGRRG) -> SGRRG:
    """Replace the trunk of `model` by a small Swin with random weights."""
    swin = SwinTransformer([4, 4], 8, [1, 1, 2, 1], [1, 2, 2, 2], [2, 2], num_classes=1)
    model.patch_encoder = PatchEncoder(extract_trunk(swin, "permute"), 64)
    return model


@pytest.mark.parametrize(
    "overrides",
    [
        (), ("model.encode=oa-d",), ("model.encode=oa-pm", "model.sentence_attention=node"), ("model.memory=false",),
        ("model.graph_in=none", "model.observation_head=false"), ("model.graph_in=encoder",),
        ("model.graph_in=both", "model.sentence_attention=hierarchical", "model.fuse=concat", "model.gate=true"),
    ],
    ids=str,
)
def test_weights_go_there_and_back(overrides):
    model = with_swin(tiny_model(*overrides))
    weights = model.state_dict()
    official = to_official(weights, SIZES)
    back, unused = from_official(official, list(weights), SIZES)
    published = [name for name in weights if not name.startswith(UNPUBLISHED) and "relative_position_index" not in name]
    assert unused == [] and sorted(back) == sorted(published)
    slots = tiny_vocabularies().attributes.slots()
    for name in published:
        expected = weights[name]
        if name.startswith("graph.attribute_predictor."):
            expected = torch.where(slots.view(*slots.shape, *[1] * (expected.dim() - 2)), expected, 0.0)
        assert torch.equal(back[name], expected), name


def test_names_are_the_published_ones():
    model = with_swin(tiny_model("model.encode=oa-d"))
    official = to_official(model.state_dict(), SIZES)
    expected = {
        "att_embed.0.weight", "att_embed.1.bias", "word_embedding.word_embedding.lut.weight", "rrg_head.weight",
        "dis_head.disease_head.weight", "region_selector.memory", "region_selector.cmn.linears.3.weight",
        "region_selector.fuse_proj.0.weight", "attribute_predictor.ff.0.weight", "attribute_predictor.ff.1.weight",
        "attribute_predictor.attribute_heads.28.bias", "scene_graph_encoder.token_type_embeddings.weight",
        "vision_encoder.layers.0.self_attn.linears.0.weight", "vision_encoder.layers.0.sublayer.1.norm.weight",
        "scene_graph_encoder.sg_encoder.layers.1.cross_attn.linears.2.bias",
        "scene_graph_encoder.sg_encoder.layers.1.sublayer.2.norm.weight",
        "decoder.layers.1.cross_attn_img.linears.1.weight", "decoder.layers.1.cross_attn_sg.linears.1.weight",
        "decoder.layers.1.sublayer.3.norm.bias", "decoder.layers.0.feed_forward.w_2.weight", "decoder.norm.weight",
        "visual_extractor.model.patch_embed.proj.weight", "visual_extractor.model.layers.2.blocks.1.mlp.fc2.bias",
        "visual_extractor.model.layers.0.downsample.reduction.weight", "visual_extractor.model.norm.weight",
    }
    assert expected - set(official) == set()
    assert not any(name.startswith(("graph.", "patch_encoder.", "image_encoder.")) for name in official)


def test_layer_norms_are_numbered_by_the_parts_of_their_layer():
    plain = to_official(tiny_model("model.graph_in=none").state_dict(), [])
    assert "decoder.layers.0.sublayer.2.norm.weight" in plain and "decoder.layers.0.sublayer.3.norm.weight" not in plain
    assert "decoder.layers.0.cross_attn.linears.0.weight" in plain
    independent = to_official(tiny_model("model.encode=oa-c").state_dict(), SIZES)
    assert "scene_graph_encoder.sg_encoder.layers.0.sublayer.1.norm.weight" in independent
    assert "scene_graph_encoder.sg_encoder.layers.0.sublayer.2.norm.weight" not in independent


def test_heads_and_embeddings_have_the_published_shapes():
    weights = tiny_model().state_dict()
    official = to_official(weights, SIZES)
    for region, size in enumerate(SIZES):
        assert official[f"attribute_predictor.attribute_heads.{region}.weight"].shape == (size, 16)
    padded = official["scene_graph_encoder.att_embedding.weight"]
    assert padded.shape == (sum(SIZES) + 1, 16) and (padded[-1] == 0).all()


def test_trunks_other_than_swin_stay_at_home():
    weights = tiny_model().state_dict()
    assert not any(name.startswith("visual_extractor") for name in to_official(weights, SIZES))
    back, _ = from_official(to_official(weights, SIZES), list(weights), SIZES)
    assert not any(name.startswith("patch_encoder") for name in back)


def test_missing_and_unused_weights_are_named():
    weights = tiny_model().state_dict()
    official = to_official(weights, SIZES) | {"word_embedding.pe": torch.zeros(1)}
    assert from_official(official, list(weights), SIZES)[1] == ["word_embedding.pe"]
    del official["rrg_head.bias"]
    with pytest.raises(UserError, match="The published weights lack rrg_head.bias"):
        from_official(official, list(weights), SIZES)


def test_shared_names_have_no_published_weights():
    with pytest.raises(ValueError, match="share_attribute_names"):
        to_official(tiny_model("model.share_attribute_names=true").state_dict(), SIZES)


def test_swin_b_has_exactly_the_published_names_and_shapes():
    with torch.device("meta"):
        trunk = extract_trunk(swin_b(), "permute")
    ours = {
        official_trunk_name(f"patch_encoder.trunk.{name}"): tuple(value.shape)
        for name, value in trunk.state_dict().items() if not name.endswith("relative_position_index")
    }
    assert len(ours) == len(list(trunk.parameters()))
    assert ours == {TRUNK_PREFIX + name: shape for name, shape in published_swin_shapes(**SWIN_B).items()}


def test_a_small_swin_gives_the_published_outputs_block_by_block():
    official = random_weights(published_swin_shapes(**STAGES), seed=5)
    network = SwinTransformer(
        [4, 4], STAGES["embed"], list(STAGES["depths"]), list(STAGES["heads"]), [WINDOW, WINDOW],
        stochastic_depth_prob=0.0,
    ).eval()
    trunk = extract_trunk(network, "permute")  # shares its weights
    names = [f"patch_encoder.trunk.{name}" for name in trunk.state_dict()]
    weights, unused = from_official({TRUNK_PREFIX + name: value for name, value in official.items()}, names, [])
    assert unused == []
    absent, _ = trunk.load_state_dict(
        {name.removeprefix("patch_encoder.trunk."): value for name, value in weights.items()}, strict=False
    )
    assert all(name.endswith("relative_position_index") for name in absent)

    outputs: list[Tensor] = []
    for position, stage in enumerate(network.features):
        for part in stage if position % 2 and isinstance(stage, nn.Sequential) else [stage]:
            part.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        network(images)
        outputs.append(trunk(images).permute(0, 2, 3, 1))
    expected = independent_swin(images, official)
    assert len(outputs) == len(expected) == 1 + sum(STAGES["depths"]) + 3 + 1
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
