"""The scene-graph encoder: which nodes attend to which, pooling, and empty slots."""

import pytest
import torch
import torch.nn.functional as F

from models.outputs import SceneGraph
from models.scene_graph_encoder import SceneGraphEncoder

SIZES = [3, 2, 0, 4]
ENCODES = ["oa-c", "oa-d", "oa-pm"]
SELECTED = torch.tensor([[True, True, True, False], [False, False, False, False], [False, True, False, True]])


def encoder(encode: str = "oa-c", pooling: str = "max", layers: int = 2) -> SceneGraphEncoder:
    torch.manual_seed(0)
    made = SceneGraphEncoder(6, 8, 2, 12, layers, SIZES, encode=encode, pooling=pooling).eval()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return made


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    slots = torch.arange(4) < torch.tensor(SIZES).unsqueeze(1)
    attributes = (torch.rand(3, 4, 4, generator=generator) < 0.6) & slots
    attributes[0, 0] = torch.tensor([True, False, True, False])
    attributes[0, 1] = torch.tensor([False, True, False, False])
    features = torch.randn(3, 4, 6, generator=generator)
    return {"region_features": features, "boxes": torch.rand(3, 4, 4, generator=generator), "attributes": attributes,
            "selected": SELECTED}


def changed_nodes(encode: str, **changes: torch.Tensor) -> torch.Tensor:
    """The nodes [B, R, E] of the encoded graph that differ after the inputs are changed."""
    made = encoder(encode)
    before, after = made(**inputs()), made(**(inputs() | changes))
    assert torch.equal(before.node_mask, after.node_mask)
    return (before.nodes - after.nodes).abs().amax(-1) > 1e-6


def other_attribute_of_region_0() -> torch.Tensor:
    """The attributes, with the last one of region 0 in study 0 replaced by another."""
    attributes = inputs()["attributes"].clone()
    attributes[0, 0] = torch.tensor([True, True, False, False])
    return attributes


def other_features_of_region_0() -> torch.Tensor:
    features = inputs()["region_features"].clone()
    features[0, 0] += 1
    return features


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("encode", ENCODES)
def test_graph_fills_the_slots_of_selected_regions(encode, pooling):
    given = inputs()
    graph = encoder(encode, pooling)(**given)
    kept = given["attributes"] & SELECTED.unsqueeze(-1)
    assert torch.equal(graph.attributes, kept) and torch.equal(graph.boxes, given["boxes"])
    assert torch.equal(graph.node_mask.sum(-1), kept.sum(-1) + SELECTED)
    assert (graph.embeddings[~SELECTED] == 0).all() and (graph.embeddings[SELECTED] != 0).any(-1).all()
    assert (graph.nodes[~graph.node_mask] == 0).all()
    for study, region in SELECTED.nonzero().tolist():
        valid = graph.nodes[study, region][graph.node_mask[study, region]]
        expected = valid.amax(0) if pooling == "max" else valid.mean(0)
        torch.testing.assert_close(graph.embeddings[study, region], expected)


def test_nodes_are_objects_and_attributes_of_their_region():
    """Without layers the nodes are the LayerNorm of their embeddings."""
    made, given = encoder(layers=0), inputs()
    graph = made(**given)
    types, table = made.type_embedding.weight, made.attribute_embedding.weight
    node = made.project(given["region_features"][2, 3]) + types[3]
    torch.testing.assert_close(graph.nodes[2, 3, 0], F.layer_norm(node, (8,)))
    offset = SIZES[0] + SIZES[1] + SIZES[2]
    for position, slot in enumerate(given["attributes"][2, 3].nonzero().flatten().tolist()):
        attribute = F.layer_norm(table[offset + slot] + types[4], (8,))
        torch.testing.assert_close(graph.nodes[2, 3, 1 + position], F.layer_norm(attribute, (8,)))


def test_attribute_norm_has_weights_of_its_own():
    made = encoder(layers=0)
    torch.nn.init.constant_(made.attribute_norm.weight, 0.0)
    torch.nn.init.constant_(made.attribute_norm.bias, 0.0)
    graph = made(**inputs())
    attribute_nodes = graph.node_mask.clone()
    attribute_nodes[..., 0] = False
    assert (graph.nodes[attribute_nodes] == 0).all() and (graph.nodes[..., 0, :][SELECTED] != 0).all()


def test_regions_share_the_embedding_of_a_name():
    """The first attributes of regions 0 and 1 share a name: changing its embedding changes both nodes."""
    torch.manual_seed(0)
    made = SceneGraphEncoder(6, 8, 2, 12, 0, SIZES, names=[[0, 1, 2], [0, 3], [], [4, 5, 6, 7]]).eval()
    given = inputs()
    given["attributes"][0, :2] = torch.tensor([[True, True, False, False], [True, True, False, False]])
    before = made(**given)
    own = made.attribute_embedding.weight[1] + made.type_embedding.weight[-1]
    expected = made.norm(made.attribute_norm(own + made.name_embedding.weight[1]))
    torch.testing.assert_close(before.nodes[0, 0, 2], expected)
    with torch.no_grad():
        made.name_embedding.weight[0] += torch.randn(8)
    changed = (made(**given).nodes - before.nodes).abs().amax(-1)[0, :2] > 1e-6
    assert changed[:, :3].tolist() == [[False, True, False], [False, True, False]]


@pytest.mark.parametrize("encode", ENCODES)
def test_unselected_regions_and_their_attributes_change_nothing(encode):
    given, unselected = inputs(), ~SELECTED.unsqueeze(-1)
    garbage = {
        "region_features": torch.where(unselected, torch.nan, given["region_features"]),
        "attributes": given["attributes"] | unselected,
    }
    made = encoder(encode)
    before, after = made(**given), made(**(given | garbage))
    assert torch.equal(before.embeddings, after.embeddings) and torch.equal(before.nodes, after.nodes)
    assert torch.equal(before.attributes, after.attributes)


def rest_of(study: int, region: int, changed: torch.Tensor) -> torch.Tensor:
    """`changed` without the nodes of one sub-graph."""
    rest = changed.clone()
    rest[study, region] = False
    return rest


def test_subgraphs_of_oa_c_are_independent():
    for change in ({"attributes": other_attribute_of_region_0()}, {"region_features": other_features_of_region_0()}):
        changed = changed_nodes("oa-c", **change)
        assert changed[0, 0, :3].all()  # its object and two attributes attend to each other
        assert not rest_of(0, 0, changed).any()


def test_objects_of_oa_d_interact():
    changed = changed_nodes("oa-d", region_features=other_features_of_region_0())
    assert changed[0, 0, :3].all()
    assert changed[0, 1, :2].all() and changed[0, 2, 0]  # other objects directly, their attributes a layer later
    assert not changed[1:].any()


@pytest.mark.parametrize("encode", ["oa-d", "oa-pm"])
def test_objects_see_other_objects_but_attributes_see_their_own_subgraph(encode):
    """In one layer, another region's object changes objects only, another region's attribute nothing."""
    made = encoder(encode, layers=1)
    before = made(**inputs()).nodes
    by_object = (made(**(inputs() | {"region_features": other_features_of_region_0()})).nodes - before).abs().amax(-1)
    by_attribute = (made(**(inputs() | {"attributes": other_attribute_of_region_0()})).nodes - before).abs().amax(-1)
    assert by_object[0, 1, 0] > 1e-4 and by_object[0, 2, 0] > 1e-4
    assert by_object[0, 1, 1] < 1e-6  # the one attribute of region 1
    assert by_object[1:].max() < 1e-6 and by_attribute[1:].max() < 1e-6
    if encode == "oa-pm":
        assert by_attribute[0, 1:].max() < 1e-6
    assert by_attribute[0, 0, :3].min() > 1e-4


def test_oa_pm_hands_on_through_objects():
    """In two layers an attribute reaches other sub-graphs through its object."""
    changed = changed_nodes("oa-pm", attributes=other_attribute_of_region_0())
    assert changed[0, 0, :3].all() and changed[0, 1, 0] and changed[0, 2, 0]
    assert not changed[1:].any()


def test_without_layers_between_objects_all_three_agree_on_single_regions():
    """With a single sub-graph, oa-pm equals oa-c."""
    given = inputs()
    given["selected"] = torch.tensor([[True, False, False, False], [False, False, False, True], [False] * 4])
    torch.testing.assert_close(encoder("oa-pm")(**given).embeddings, encoder("oa-c")(**given).embeddings)


@pytest.mark.parametrize("encode", ENCODES)
def test_studies_do_not_see_each_other(encode):
    made, given = encoder(encode), inputs()
    together = made(**given)
    for study in range(3):
        alone = made(**{name: value[study : study + 1] for name, value in given.items()})
        torch.testing.assert_close(alone.embeddings[0], together.embeddings[study], atol=1e-6, rtol=1e-5)
        width = alone.nodes.shape[2]
        torch.testing.assert_close(alone.nodes[0], together.nodes[study, :, :width], atol=1e-6, rtol=1e-5)
        assert not together.node_mask[study, :, width:].any()


@pytest.mark.parametrize("encode", ENCODES)
def test_slots_of_unselected_regions_might_as_well_not_exist(encode):
    """Study 0 lacks region 3: an encoder with three regions returns the same sub-graphs."""
    made, given = encoder(encode), inputs()
    smaller = SceneGraphEncoder(6, 8, 2, 12, 2, SIZES[:3], encode=encode).eval()
    weights = made.state_dict()
    weights["type_embedding.weight"] = weights["type_embedding.weight"][[0, 1, 2, 4]]
    weights["attribute_embedding.weight"] = weights["attribute_embedding.weight"][: sum(SIZES[:3])]
    smaller.load_state_dict(weights)
    expected = smaller(**{name: value[:1, :3] for name, value in given.items()})
    torch.testing.assert_close(made(**given).embeddings[:1, :3], expected.embeddings, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("encode", ENCODES)
def test_no_region_at_all_keeps_gradients_whole(encode):
    made, given = encoder(encode).train(), inputs()
    given["selected"] = torch.zeros_like(SELECTED)
    given["region_features"].requires_grad_()
    graph: SceneGraph = made(**given)
    assert graph.embeddings.shape == (3, 4, 8) and (graph.embeddings == 0).all()
    assert graph.nodes.shape == (3, 4, 1, 8) and not graph.node_mask.any()
    (graph.embeddings.sum() + graph.nodes.sum()).backward()
    assert (given["region_features"].grad == 0).all()
    assert all(parameter.grad is not None and (parameter.grad == 0).all() for parameter in made.parameters())


@pytest.mark.parametrize("encode", ENCODES)
@pytest.mark.parametrize("names", [None, [[], [], [], []]])
def test_vocabulary_without_any_attribute(encode, names):
    torch.manual_seed(0)
    made = SceneGraphEncoder(6, 8, 2, 12, 1, [0, 0, 0, 0], encode=encode, names=names)
    given = inputs()
    given["attributes"] = torch.zeros(3, 4, 1, dtype=torch.bool)
    graph = made(**given)
    assert graph.nodes.shape == (3, 4, 1, 8) and torch.equal(graph.node_mask[..., 0], SELECTED)
