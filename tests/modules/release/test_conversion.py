"""A release checkpoint as one of ours: names, sizes, numbers and settings."""

import json
from pathlib import Path

import torch

import main_train
from benchmarks.support.published import to_published_batch
from data.ontology import Anatomy
from models.outputs import BoxSource, GraphSource
from modules.builders import build_model
from modules.checkpoint import load_checkpoint
from modules.model_inputs import model_inputs
from modules.release.conversion import convert
from modules.release.published_weights import from_official, to_official
from modules.weights import load_weights
from tests.support.release_files import (
    ATTRIBUTES,
    HIDDEN,
    OVERRIDES,
    SLOTS,
    UNUSED,
    WIDTH,
    WORDS,
    published_model,
    release_state,
    write_release,
)
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_model import tiny_batch


def test_a_release_file_becomes_a_checkpoint_with_the_same_numbers(small_trunk, release, tokens, tmp_path):
    assert convert(release, tokens, tmp_path / "out", OVERRIDES) == UNUSED
    checkpoint = load_checkpoint(tmp_path / "out")
    config, vocabularies = checkpoint.config, checkpoint.vocabularies
    assert (config.model.width, config.model.feedforward, config.model.memory_slots) == (WIDTH, HIDDEN, SLOTS)
    assert (config.model.image_layers, config.model.graph_layers, config.model.decoder_layers) == (1, 2, 1)
    assert (config.model.encode, config.model.graph_in, config.model.memory) == ("oa-c", "decoder", True)
    assert (config.model.localizer, config.eval.box_source) == (False, BoxSource.ATLAS)
    assert vocabularies.attributes.sizes == tuple(ATTRIBUTES)
    first, second = vocabularies.anatomy.names[:2]
    assert vocabularies.attributes.by_region[:2] == ((f"{first}/0",), (f"{second}/0", f"{second}/1"))
    assert (vocabularies.tokenizer.bos_id, vocabularies.tokenizer.eos_id, vocabularies.tokenizer.pad_id) == (0, 0, 0)
    assert vocabularies.tokenizer.words == tuple(WORDS)

    model = build_model(config, vocabularies).eval()
    load_weights(model, checkpoint.weights)
    batch = tiny_batch(studies=3, vocabularies=vocabularies)
    batch.images = torch.randn(3, 1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    inputs = model_inputs(batch, GraphSource.ORACLE, BoxSource.ATLAS, training=True)
    with torch.no_grad():
        output = model(inputs, batch.token_ids, batch.token_mask, GraphSource.ORACLE, BoxSource.ATLAS)
        patches = model.patch_encoder(batch.images, batch.view_mask).tokens
        theirs = published_model().eval()
        published = to_published_batch(batch, patches, ATTRIBUTES)
        encoded = theirs.encode(published)
        causal = torch.full((batch.token_ids.shape[1] - 1,) * 2, -torch.inf).triu(1).unsqueeze(0)
        logits = theirs.word_logits(
            published.text[:, :-1], causal, encoded["image"], encoded["graph"], encoded["graph_mask"]
        )
    real = batch.token_mask[:, 1:]
    torch.testing.assert_close(output.word_logits[real], logits[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.encoded.region_logits, encoded["regions"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.encoded.observation_logits, encoded["diseases"], atol=1e-4, rtol=1e-4)


def test_training_on_other_words_starts_from_the_result_by_names(small_trunk, release, tokens, tmp_path, capsys):
    """Train as in README, with a learning rate of 0, so that the weights of the run are the initial ones."""
    out = tmp_path / "out"
    convert(release, tokens, out, [*OVERRIDES, "data.image_size=64"])
    root = write_tiny_dataset(tmp_path / "tiny", train=4, val=1, test=1, image_size=64)
    records = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    right = Anatomy.load().names[3]
    for record in records:
        record["report"] = "another word07 word01."
        attributes = [f"{right}/{number}" for number in (3, 1)]
        record["graph"] = {"regions": {right: {"box": None, "mentioned": True, "abnormal": False,
                                               "attributes": attributes}}}
    (root / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    own = [
        f"data.root={root}", f"results={tmp_path / 'results'}", "name=run", "data.workers=0", "optim.batch_size=2",
        "data.min_word_count=1", "data.min_attribute_count=1", "train.max_steps=1", "train.epochs=1", "optim.lr=0",
        "optim.lr_patch_encoder=0", "train.monitor=bleu_4", "eval.meteor_in_validation=false", "train.device=cpu",
    ]
    assert main_train.main(["--config", str(out / "config.yaml"), *own, f"train.init_from={out}"]) == 0
    said = "".join(capsys.readouterr())
    assert f"Started from {out}" in said
    assert "decoder.word_head.bias keeps 1 of its 6 rows, which are not in the checkpoint: another" in said
    given, run = load_checkpoint(out), load_checkpoint(tmp_path / "results/run/last")
    words = run.vocabularies.tokenizer.words
    assert words == (".", "<unk>", "another", "word01", "word07")
    for name in ("decoder.embedding.tokens.weight", "decoder.word_head.weight", "decoder.word_head.bias"):
        for word in (".", "<unk>", "word01", "word07"):
            assert torch.equal(run.weights[name][1 + words.index(word)], given.weights[name][1 + WORDS.index(word)])
        assert torch.equal(run.weights[name][0], given.weights[name][0])
    assert run.vocabularies.attributes.by_region[3] == (f"{right}/1", f"{right}/3")
    for part in ("weight", "bias"):
        heads, trained = (each.weights[f"graph.attribute_predictor.{part}"][3] for each in (run, given))
        assert torch.equal(heads[:2], trained[[1, 3]])
    embeddings, trained = (each.weights["graph.encoder.attribute_embedding.weight"] for each in (run, given))
    assert torch.equal(embeddings, trained[sum(ATTRIBUTES[:3]) + torch.tensor([1, 3])])


def test_names_of_several_processes(small_trunk, tokens, tmp_path):
    plain = write_release(tmp_path / "plain.pth", release_state())
    wrapped = write_release(tmp_path / "wrapped.pth", release_state("module."))
    for file in (plain, wrapped):
        assert convert(file, tokens, tmp_path / file.stem, OVERRIDES) == UNUSED
    one, other = (load_checkpoint(tmp_path / name).weights for name in ("plain", "wrapped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_settings_that_the_weights_do_not_show_are_kept(small_trunk, release, tokens, tmp_path):
    overrides = [*OVERRIDES, "model.encode=oa-pm", "model.sentence_attention=node", "eval.box_source=file",
                 "data.boxes_file=boxes.jsonl"]
    convert(release, tokens, tmp_path / "out", overrides)
    config = load_checkpoint(tmp_path / "out").config
    assert (config.model.encode, config.model.sentence_attention, config.eval.box_source) == ("oa-pm", "node", "file")


def test_objects_that_attend_are_seen_in_the_weights(small_trunk, tokens, tmp_path):
    state = release_state()
    for layer in range(2):
        at = f"scene_graph_encoder.sg_encoder.layers.{layer}."
        for part in ("weight", "bias"):  # the norm of the feed-forward part, the last of the layer
            state[f"{at}sublayer.2.norm.{part}"] = torch.full((WIDTH,), 2.0)
        for linear in range(4):
            state[f"{at}cross_attn.linears.{linear}.weight"] = torch.zeros(WIDTH, WIDTH)
            state[f"{at}cross_attn.linears.{linear}.bias"] = torch.zeros(WIDTH)
    file = write_release(tmp_path / "d.pth", state)
    assert convert(file, tokens, tmp_path / "out", OVERRIDES) == UNUSED
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.config.model.encode == "oa-d"
    assert (checkpoint.weights["graph.encoder.layers.1.feed_forward.norm.weight"] == 2).all()


def test_an_empty_folder_and_an_earlier_result_are_written_to(small_trunk, release, tokens, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    convert(release, tokens, Path("."), OVERRIDES)
    assert load_checkpoint(out).config.model.encode == "oa-c"
    convert(release, tokens, out, [*OVERRIDES, "model.encode=oa-pm"])
    assert load_checkpoint(out).config.model.encode == "oa-pm"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_best.pth", "out", "tokens.json"]


def test_to_official_is_the_inverse(small_trunk, release, tokens, tmp_path):
    convert(release, tokens, tmp_path / "out", OVERRIDES)
    weights = load_checkpoint(tmp_path / "out").weights
    official = to_official(weights, ATTRIBUTES)
    state = release_state()
    assert official.keys() == state.keys() - set(UNUSED)
    padding_row = "scene_graph_encoder.att_embedding.weight"
    for name, value in official.items():
        expected = state[name]
        if name == padding_row:  # ours does not have this row
            value, expected = value[:-1], expected[:-1]
        assert torch.equal(value, expected), name
    back, unused = from_official(official, list(weights), ATTRIBUTES)
    assert unused == []
    assert back.keys() == {name for name in weights if name != "graph.atlas" and "position_index" not in name}
    assert all(torch.equal(value, weights[name]) for name, value in back.items())
