import errno
import os
import pickle
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from data.errors import UserError
from data.ontology import Anatomy
from data.text.tokenizer import Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.sgrrg import SGRRG
from modules.builders import build_vocabularies
from modules.checkpoint import (
    CONFIG,
    TRAINING_STATE,
    VOCABULARIES,
    WEIGHTS,
    check_replaceable,
    has_checkpoint,
    init_weights_from,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from modules.config import load_config
from tests.support.tiny_model import ATTRIBUTES_PER_REGION as SIZES
from tests.support.tiny_model import tiny_config, tiny_model, tiny_vocabularies
from tests.support.tiny_training import tiny_settings

STATE = {"position": {"step": 3, "best": None}, "random": torch.arange(4, dtype=torch.uint8), "list": [1, "a", 0.5]}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    config = load_config(None, tiny_settings(tmp_path_factory.mktemp("parts")))
    return config, build_vocabularies(config)


def model_of(value: float, size: int = 2) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, size), nn.BatchNorm1d(size))
    nn.init.constant_(model[0].weight, value)
    return model


def save(directory: Path, parts: tuple, value: float = 1.0, size: int = 2, state: dict | None = STATE) -> None:
    save_checkpoint(directory, model_of(value, size), *parts, training_state=state)


def weight_of(directory: Path) -> float:
    return float(load_checkpoint(directory).weights["0.weight"][0, 0])


def test_round_trip(tmp_path, parts):
    save(tmp_path / "last", parts, 0.25)
    loaded = load_checkpoint(tmp_path / "last", training=True)
    config, vocabularies = parts
    assert loaded.directory == tmp_path / "last"
    assert loaded.config == config
    assert loaded.vocabularies.fingerprints() == vocabularies.fingerprints()
    assert loaded.weights.keys() == model_of(0).state_dict().keys()
    assert weight_of(tmp_path / "last") == 0.25
    assert loaded.training_state["position"] == STATE["position"]
    assert torch.equal(loaded.training_state["random"], STATE["random"])
    assert load_checkpoint(tmp_path / "last").training_state is None


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path, parts):
    save(tmp_path / "last", parts, 1)
    save(tmp_path / "last", parts, 2, state=None)
    assert weight_of(tmp_path / "last") == 2
    assert not (tmp_path / "last" / TRAINING_STATE).exists()
    assert os.listdir(tmp_path) == ["last"]


def test_a_checkpoint_without_a_training_state_is_nothing_to_go_on_from(tmp_path, parts):
    assert not has_checkpoint(tmp_path / "last")
    save(tmp_path / "last", parts, state=None)
    assert not has_checkpoint(tmp_path / "last")
    with pytest.raises(UserError, match=f"has no {TRAINING_STATE}"):
        load_checkpoint(tmp_path / "last", training=True)
    save(tmp_path / "last", parts)
    assert has_checkpoint(tmp_path / "last")


@pytest.mark.parametrize(
    ("files_written", "renames_done"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 1), (4, 2)]
)
def test_a_crash_anywhere_leaves_a_whole_checkpoint(tmp_path, parts, monkeypatch, files_written, renames_done):
    """The machine stops before a file, or before a rename, is done."""
    directory = tmp_path / "last"
    save(directory, parts, 1)

    class MachineStops(BaseException):
        pass

    counts = {"fsync": 0, "rename": 0}

    def after(name, limit, function):
        def counted(*arguments):
            if counts[name] == limit:
                raise MachineStops
            counts[name] += 1
            return function(*arguments)

        return counted

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", after("rename", renames_done, Path.rename))
        if files_written < 4:
            patched.setattr(os, "fsync", after("fsync", files_written, os.fsync))
        try:
            save(directory, parts, 2)
        except MachineStops:
            pass
    assert has_checkpoint(directory)
    assert weight_of(directory) == (2 if renames_done == 2 else 1)
    save(directory, parts, 3)
    assert weight_of(directory) == 3
    assert os.listdir(tmp_path) == ["last"]


@pytest.fixture
def file_size_limit():
    """A function that sets the largest size of a file for this process, lifted afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 30_000, 200_000])
def test_a_file_that_does_not_fit_is_one_line_and_leaves_the_old_checkpoint(tmp_path, parts, file_size_limit, size):
    """In the configuration, in the vocabularies or weights, in the training state."""
    save(tmp_path / "last", parts, 1)
    file_size_limit(size)
    with pytest.raises(UserError) as caught:
        save(tmp_path / "last", parts, 2, size=5_000, state=STATE | {"moments": torch.zeros(100_000)})
    file_size_limit(resource.RLIM_INFINITY)
    assert "\n" not in str(caught.value)
    assert f"Cannot write {tmp_path / 'last'}/" in str(caught.value)
    assert f"{os.strerror(errno.EFBIG)}; make room there" in str(caught.value)
    assert weight_of(tmp_path / "last") == 1
    assert os.listdir(tmp_path) == ["last"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, parts):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="Cannot write .*results/last: .*; make room there, or choose another place"):
        save(tmp_path / "results" / "last", parts)


@pytest.mark.parametrize(("names", "said"), [
    (["thesis.txt"], "holds thesis.txt, which a checkpoint there would replace"),
    ([WEIGHTS, CONFIG, VOCABULARIES, "metrics.json"], "holds metrics.json, which"),
    ([WEIGHTS, CONFIG, VOCABULARIES, TRAINING_STATE], f"holds {TRAINING_STATE}, which"),
    ([WEIGHTS], f"holds {WEIGHTS} but no whole checkpoint"),
    (["best/weights.pt"], "holds best, which"),
])
def test_what_is_no_old_checkpoint_is_not_to_be_replaced(tmp_path, names, said):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=said):
        check_replaceable(tmp_path)


def test_an_old_checkpoint_and_an_empty_place_may_be_replaced(tmp_path, parts):
    check_replaceable(tmp_path)
    check_replaceable(tmp_path / "absent")
    save(tmp_path / "best", parts, state=None)
    check_replaceable(tmp_path / "best")
    save(tmp_path / "last", parts)
    check_replaceable(tmp_path / "last", training=True)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="file is no folder to write a checkpoint to: Not a directory"):
        check_replaceable(tmp_path / "file")


def test_a_run_folder_stands_for_its_best(tmp_path, parts, capsys):
    save(tmp_path / "run" / "best", parts, 7)
    save(tmp_path / "run" / "last", parts, 8)
    assert weight_of(tmp_path / "run") == 7
    assert "is a run folder: taking its best checkpoint" in capsys.readouterr().err


def test_a_run_folder_without_a_best_says_what_to_give(tmp_path, parts):
    save(tmp_path / "run" / "last", parts)
    with pytest.raises(UserError, match="has no best checkpoint yet, only the last one: give .*run/last"):
        load_checkpoint(tmp_path / "run")


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="No checkpoint at .*nowhere: there is no such folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"is no checkpoint: it has no {WEIGHTS}"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, VOCABULARIES, TRAINING_STATE])
def test_a_missing_file_is_named(tmp_path, parts, name):
    save(tmp_path / "last", parts)
    (tmp_path / "last" / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}: it is incomplete"):
        load_checkpoint(tmp_path / "last", training=True)


@pytest.mark.parametrize("name", [VOCABULARIES, WEIGHTS, TRAINING_STATE])
@pytest.mark.parametrize("content", [b"", b"{}", b"no archive", None])
def test_a_damaged_file_is_named_in_one_line(tmp_path, parts, name, content):
    save(tmp_path / "last", parts)
    path = tmp_path / "last" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(UserError) as caught:
        load_checkpoint(tmp_path / "last", training=True)
    assert f"{path} is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_in_a_checkpoint_is_not_executed(tmp_path, parts):
    save(tmp_path / "last", parts)
    trap = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write({"0.weight": Trap()}, tmp_path / "last" / WEIGHTS)
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(tmp_path / "last")
    assert not trap.exists()


def test_weights_that_do_not_fit_are_named_with_their_shapes(tmp_path, parts):
    save(tmp_path / "last", parts, size=3)
    weights = load_checkpoint(tmp_path / "last").weights
    weights["extra"] = weights.pop("1.running_var")
    model = model_of(9)
    with pytest.raises(UserError) as caught:
        load_weights(model, weights)
    message = str(caught.value)
    assert "0.weight is [3, 2] in the checkpoint and [2, 2] in the model" in message
    assert message.endswith("and 2 more. Build the model that it was saved from")
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


# Rows by their names


def renumbered(vocabularies: Vocabularies) -> Vocabularies:
    """The same names by other numbers, but new ones for word03 and for the attributes "finding 1"."""
    words = tuple("new" if word == "word03" else word for word in reversed(vocabularies.tokenizer.words))
    by_region = tuple(
        tuple(name.replace("finding 1", "new") for name in reversed(names))
        for names in reversed(vocabularies.attributes.by_region)  # other sizes in every region
    )
    return replace(
        vocabularies, tokenizer=Tokenizer(words, True), attributes=AttributeVocabulary(by_region, "default"),
        observations=tuple(reversed(vocabularies.observations)),
        anatomy=Anatomy(tuple(reversed(vocabularies.anatomy.regions))),
    )


def named_rows(model: SGRRG, vocabularies: Vocabularies) -> dict[tuple, torch.Tensor]:
    """Every row that a name stands for, by weight and name: written apart from the code under test."""
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
            shared = attributes.name_numbers[region][slot]
            rows["shared", attribute] = graph.encoder.name_embedding.weight[shared]
            rows["shared head", attribute] = graph.attribute_predictor.name_weight[shared]
    return {name: row.detach().clone() for name, row in rows.items()}


def test_init_puts_rows_where_their_names_are(tmp_path):
    settings, vocabularies = ("model.share_attribute_names=true",), tiny_vocabularies()
    trained, others = tiny_model(*settings), renumbered(vocabularies)
    save_checkpoint(tmp_path, trained, tiny_config(*settings), vocabularies)
    model = tiny_model(*settings, seed=1, vocabularies=others)
    fresh, given = named_rows(model, others), named_rows(trained, vocabularies)
    atlas = model.graph.atlas.clone()
    lines = init_weights_from(model, others, tmp_path)
    found = named_rows(model, others)
    same = found.keys() & given.keys()
    assert {name[0] for name in same} == {name[0] for name in found}
    assert {name for name in found.keys() - same if name[0] in ("words", "shared")} == {
        ("words", "new"), ("shared", "anatomicalfinding|yes|new")
    }
    for name, row in found.items():
        assert torch.equal(row, given[name] if name in same else fresh[name]), name
    assert "decoder.word_head.weight keeps 1 of its 23 rows, which the checkpoint has not: new" in lines
    kept = sum(name[0] == "attribute" for name in found.keys() - same)
    assert any(
        line.startswith(f"graph.encoder.attribute_embedding.weight keeps {kept} of its {sum(SIZES)} rows, which the")
        and line.endswith(f", and {kept - 5} more") for line in lines
    )
    assert torch.equal(model.graph.atlas, atlas) and not any("atlas" in line for line in lines)
    assert torch.equal(model.graph.encoder.project.weight, trained.graph.encoder.project.weight)


def test_init_with_the_same_names_takes_everything(tmp_path):
    trained, model = tiny_model(), tiny_model(seed=1)
    save_checkpoint(tmp_path, trained, tiny_config(), tiny_vocabularies())
    assert init_weights_from(model, tiny_vocabularies(), tmp_path) == []
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_init_without_any_common_name_or_size_keeps_the_model(tmp_path):
    """Ids of their own for BOS and EOS, which the checkpoint has not; rows of another width."""
    shared = tiny_vocabularies(distinct_special_tokens=False)
    trained = tiny_model(vocabularies=shared)
    save_checkpoint(tmp_path, trained, tiny_config(), shared)
    model = tiny_model("model.width=32", seed=1)
    before = model.decoder.word_head.weight.clone()
    lines = init_weights_from(model, tiny_vocabularies(), tmp_path)
    assert torch.equal(model.decoder.word_head.weight, before)
    assert "decoder.word_head.weight is [21, 16] in the checkpoint and [23, 32] in the model" in lines
    assert ("decoder.word_head.bias keeps 3 of its 23 rows, which the checkpoint has not: id of padding, id of BOS, "
            "id of EOS") in lines
