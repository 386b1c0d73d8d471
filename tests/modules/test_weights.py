"""Loading weights into a model: all of them, or those that fit, with rows matched by their labels."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from data.errors import UserError
from data.ontology import Anatomy
from data.text.tokenizer import Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.sgrrg import SGRRG
from modules.builders import build_model, load_model
from modules.checkpoint import (
    Thresholds,
    load_checkpoint,
    save_checkpoint,
)
from modules.weights import init_weights_from, load_thresholds, load_weights, with_current_names
from tests.support.checkpoint_files import update_manifest
from tests.support.small_checkpoint import model_of, save
from tests.support.tiny_model import ATTRIBUTES_PER_REGION as SIZES
from tests.support.tiny_model import tiny_config, tiny_model, tiny_vocabularies


def test_weights_that_do_not_fit_are_named_with_their_shapes(tmp_path, parts):
    save(tmp_path / "last", parts, size=3)
    weights = load_checkpoint(tmp_path / "last").weights
    weights["extra"] = weights.pop("1.running_var")
    model = model_of(9)
    with pytest.raises(UserError) as caught:
        load_weights(model, weights)
    message = str(caught.value)
    assert "0.weight is [3, 2] in the checkpoint and [2, 2] in the model" in message
    assert message.endswith("and 2 more. Use the configuration that it was saved with")
    assert model[0].weight[0, 0].item() == 9
    load_weights(model_of(9, size=3), load_checkpoint(tmp_path / "last").weights)


def test_init_loads_what_fits_and_returns_the_rest(tmp_path, parts):
    save(tmp_path / "last", parts, 4)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 1))
    misfits = init_weights_from(model, parts[1], tmp_path / "last")
    assert model[0].weight[0, 0].item() == 4
    assert misfits == [
        "1.bias [2] is not in the model", "1.weight [2] is not in the model", "2.bias [1] is not in the checkpoint",
        "2.weight [1, 2] is not in the checkpoint",
    ]


# Rows and thresholds are matched by name


def test_thresholds_are_matched_by_name_and_others_keep_the_default():
    vocabularies = tiny_vocabularies()
    names, attributes = vocabularies.anatomy.names, vocabularies.attributes.by_region
    model = tiny_model()
    thresholds = Thresholds(
        {names[3]: 0.75, "third lung": 0.5}, {names[2]: {attributes[2][1]: 0.25, "unheard of": 0.5}}, {}
    )
    load_thresholds(model, vocabularies, thresholds)
    assert model.graph.tuned_thresholds
    expected = torch.full((29,), 0.2)
    expected[3] = 0.75
    assert torch.equal(model.graph.region_thresholds, expected)
    expected = torch.full(vocabularies.attributes.slots().shape, 0.5)
    expected[2, 1] = 0.25
    assert torch.equal(model.graph.attribute_thresholds, expected)
    without_graph = tiny_model("model.graph_in=none")
    load_thresholds(without_graph, vocabularies, thresholds)
    assert without_graph.graph is None


def renumbered(vocabularies: Vocabularies) -> Vocabularies:
    """The same names with other indices, except for new ones in place of word03 and of the attributes "finding 1"."""
    words = tuple("new" if word == "word03" else word for word in reversed(vocabularies.tokenizer.words))
    by_region = tuple(
        tuple(name.replace("finding 1", "new") for name in reversed(names))
        for names in reversed(vocabularies.attributes.by_region)  # changes the number of attributes of every region
    )
    return replace(
        vocabularies, tokenizer=Tokenizer(words, True), attributes=AttributeVocabulary(by_region, "default"),
        observations=tuple(reversed(vocabularies.observations)),
        anatomy=Anatomy(tuple(reversed(vocabularies.anatomy.regions))),
    )


def named_rows(model: SGRRG, vocabularies: Vocabularies) -> dict[tuple, torch.Tensor]:
    """Every named row by weight and name, computed independently of the code under test."""
    rows = {}
    graph, decoder = model.graph, model.decoder
    tokenizer, attributes = vocabularies.tokenizer, vocabularies.attributes
    special = {"padding": tokenizer.pad_id, "BOS": tokenizer.bos_id, "EOS": tokenizer.eos_id}
    for word, number in [*((word, i) for i, word in enumerate(tokenizer.words, start=1)), *special.items()]:
        rows["words", word] = decoder.embedding.tokens.weight[number]
        rows["head", word] = torch.cat([decoder.word_head.weight[number], decoder.word_head.bias[number, None]])
    for observation, name in enumerate(vocabularies.observations):
        head = model.observation_head.head
        rows["observation", name] = torch.cat([head.weight[observation], head.bias[observation, None]])
    for region, name in enumerate(vocabularies.anatomy.names):
        rows["type", name] = graph.encoder.type_embedding.weight[region]
        rows["selector", name] = torch.cat([graph.selector.head.weight[region], graph.selector.head.bias[region, None]])
        localizer, four = graph.localizer, slice(4 * region, 4 * region + 4)
        rows["visible", name] = torch.cat([localizer.visible.weight[region], localizer.visible.bias[region, None]])
        rows["shift", name] = torch.cat([localizer.shift.weight[four].flatten(), localizer.shift.bias[four]])
        for slot, attribute in enumerate(attributes.by_region[region]):
            number = attributes.offsets[region] + slot
            rows["attribute", name, attribute] = graph.encoder.attribute_embedding.weight[number]
            rows["attribute head", name, attribute] = torch.cat([
                graph.attribute_predictor.weight[region, slot], graph.attribute_predictor.bias[region, slot, None],
            ])
            shared = attributes.name_ids[region][slot]
            rows["shared", attribute] = graph.encoder.name_embedding.weight[shared]
            rows["shared head", attribute] = graph.attribute_predictor.name_weight[shared]
    return {name: row.detach().clone() for name, row in rows.items()}


def test_init_puts_rows_where_their_names_are(tmp_path):
    settings, vocabularies = ("model.share_attribute_names=true",), tiny_vocabularies()
    trained, others = tiny_model(*settings), renumbered(vocabularies)
    save_checkpoint(tmp_path, trained, tiny_config(*settings), vocabularies)
    model = tiny_model(*settings, seed=1, vocabularies=others)
    initial, saved = named_rows(model, others), named_rows(trained, vocabularies)
    atlas = model.graph.atlas.clone()
    lines = init_weights_from(model, others, tmp_path)
    loaded = named_rows(model, others)
    same = loaded.keys() & saved.keys()
    assert {name[0] for name in same} == {name[0] for name in loaded}
    assert {name for name in loaded.keys() - same if name[0] in ("words", "shared")} == {
        ("words", "new"), ("shared", "anatomicalfinding|yes|new")
    }
    for name, row in loaded.items():
        assert torch.equal(row, saved[name] if name in same else initial[name]), name
    assert "decoder.word_head.weight keeps 1 of its 23 rows, which are not in the checkpoint: new" in lines
    kept = sum(name[0] == "attribute" for name in loaded.keys() - same)
    start = f"graph.encoder.attribute_embedding.weight keeps {kept} of its {sum(SIZES)} rows, which are not in the"
    assert any(line.startswith(start) and line.endswith(f", and {kept - 5} more") for line in lines)
    assert torch.equal(model.graph.atlas, atlas) and not any("atlas" in line for line in lines)
    assert torch.equal(model.graph.encoder.project.weight, trained.graph.encoder.project.weight)


def test_init_with_the_same_names_takes_everything(tmp_path):
    trained, model = tiny_model(), tiny_model(seed=1)
    save_checkpoint(tmp_path, trained, tiny_config(), tiny_vocabularies())
    assert init_weights_from(model, tiny_vocabularies(), tmp_path) == []
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_init_without_any_common_name_or_size_keeps_the_model(tmp_path):
    """Separate ids for BOS and EOS, which the checkpoint does not have, and rows of another width."""
    shared = tiny_vocabularies(distinct_special_tokens=False)
    trained = tiny_model(vocabularies=shared)
    save_checkpoint(tmp_path, trained, tiny_config(), shared)
    model = tiny_model("model.width=32", seed=1)
    before = model.decoder.word_head.weight.clone()
    lines = init_weights_from(model, tiny_vocabularies(), tmp_path)
    assert torch.equal(model.decoder.word_head.weight, before)
    assert "decoder.word_head.weight is [21, 16] in the checkpoint and [23, 32] in the model" in lines
    assert ("decoder.word_head.bias keeps 3 of its 23 rows, which are not in the checkpoint: id of padding, id of BOS, "
            "id of EOS") in lines


# Names of earlier versions


def test_checkpoint_of_an_earlier_version_loads_resumes_and_initialises(tmp_path):
    """Earlier versions numbered the parts of a ResNet trunk."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    config = tiny_config("model.patch_encoder.backbone=resnet18", "model.patch_encoder.weights=none")
    vocabularies = tiny_vocabularies()
    torch.manual_seed(0)
    trained = build_model(config, vocabularies)

    def earlier(name: str) -> str:
        part = name.removeprefix("patch_encoder.trunk.").partition(".")[0]
        return name.replace(f"trunk.{part}.", f"trunk.{numbers[part]}.") if name.startswith("patch_encoder.") else name

    save_checkpoint(tmp_path, trained, config, vocabularies)
    weights = {earlier(name): value for name, value in trained.state_dict().items()}
    assert "patch_encoder.trunk.4.0.conv1.weight" in weights
    torch.save(weights, tmp_path / "weights.pt")
    update_manifest(tmp_path)
    loaded = load_model(load_checkpoint(tmp_path), config)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in loaded.state_dict().items())
    initialised = build_model(config, vocabularies)
    assert init_weights_from(initialised, vocabularies, tmp_path) == []
    assert torch.equal(initialised.patch_encoder.trunk.conv1.weight, trained.patch_encoder.trunk.conv1.weight)
    moments = {earlier(name): number for number, (name, _) in enumerate(trained.named_parameters())}
    assert list(with_current_names(trained, moments)) == [name for name, _ in trained.named_parameters()]
