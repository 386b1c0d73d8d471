"""A release checkpoint as one of ours: names, sizes and numbers, on invented files.

The release's side is written down here and in `benchmarks/published.py`, independently of the mapping under test.
"""

import json
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import swin_b
from torchvision.models.swin_transformer import SwinTransformer

import main_test
import main_train
from benchmarks.published import PublishedModel, published_batch
from data.errors import UserError
from data.ontology import Anatomy
from models.outputs import BoxSource, GraphSource
from models.patch_encoder import PatchEncoder, SwinTrunk
from modules import builders
from modules.builders import build_model
from modules.checkpoint import load_checkpoint, load_weights
from modules.model_inputs import model_inputs
from modules.official_checkpoint import convert, from_official, main, official_trunk_name, to_official
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_model import tiny_batch

ATTRIBUTES = [region % 4 + 1 for region in range(29)]
WORDS = [".", "<unk>", *(f"word{number:02}" for number in range(18))]  # ids 1 to 20; 0 is BOS, EOS and padding
SLOTS, WIDTH, HIDDEN, LONGEST = 6, 16, 24, 12
# What the weights do not show.
UNSEEN = ["model.heads=2", "model.memory_heads=4", "model.memory_top=3", f"data.max_tokens={LONGEST}"]
SMALL = {"embed": 8, "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 4), "window": 7}
SWIN_B = {"embed": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "window": 7}
TRUNK = "visual_extractor.model."


# The release's side


def published_swin_shapes(embed: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> dict:
    """Names and shapes of a published Swin's parameters (Liu et al., 2021), without buffers and head."""
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


def published_model() -> PublishedModel:
    torch.manual_seed(3)
    model = PublishedModel(
        8 * SMALL["embed"], WIDTH, 2, HIDDEN, 1, 2, 1, len(WORDS) + 1, LONGEST, 14, ATTRIBUTES, SLOTS, 4, 3
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def release_state(prefix: str = "") -> dict[str, Tensor]:
    """A state dict of the release, with a small Swin in place of its Swin-B, buffers and a head."""
    state = published_model().state_dict()
    state |= {TRUNK + name: value for name, value in random_weights(published_swin_shapes(**SMALL)).items()}
    state["word_embedding.pe"] = torch.zeros(1, 5000, WIDTH)
    state[TRUNK + "layers.0.blocks.0.attn_mask"] = torch.zeros(64, 49, 49)
    state[TRUNK + "layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state[TRUNK + "head.weight"] = torch.zeros(1000, 64)
    return {prefix + name: value for name, value in state.items()}


UNUSED = sorted(["word_embedding.pe", *(TRUNK + name for name in (
    "layers.0.blocks.0.attn_mask", "layers.0.blocks.0.attn.relative_position_index", "head.weight"))])


def write_release(path: Path, state: dict[str, Tensor]) -> Path:
    """A file as the release's trainer leaves it, with what torch's own optimiser, schedule and scaler remember."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 4])
    assert isinstance(schedule.state_dict()["milestones"], Counter)
    content = {
        "epoch": 9, "state_dict": state, "lr_scheduler": schedule.state_dict(), "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(), "monitor_best": np.float64(0.3),
        "monitor_test_best": 0.2, "best_epoch": 7,
    }
    torch.save(content, path)
    return path


def small_swin(window: int = 7) -> SwinTransformer:
    return SwinTransformer(
        [4, 4], SMALL["embed"], list(SMALL["depths"]), list(SMALL["heads"]), [window, window],
        stochastic_depth_prob=0.0,
    )


@pytest.fixture
def small_trunk(monkeypatch):
    """Every `swin_b` is a small Swin."""
    def build(backbone: str, stride: int, weights: str) -> PatchEncoder:
        assert (backbone, stride, weights) == ("swin_b", 32, "none")
        return PatchEncoder(SwinTrunk(small_swin()), 8 * SMALL["embed"])

    monkeypatch.setattr(builders, "build_patch_encoder", build)


@pytest.fixture
def release(tmp_path) -> Path:
    return write_release(tmp_path / "model_best.pth", release_state())


@pytest.fixture
def tokens(tmp_path) -> Path:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(WORDS))
    return path


# The whole way


def test_a_release_file_becomes_a_checkpoint_with_the_same_numbers(small_trunk, release, tokens, tmp_path):
    assert convert(release, tokens, tmp_path / "out", UNSEEN) == UNUSED
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
        published = published_batch(batch, patches, ATTRIBUTES)
        encoded = theirs.encode(published)
        causal = torch.full((batch.token_ids.shape[1] - 1,) * 2, -torch.inf).triu(1).unsqueeze(0)
        logits = theirs.words(
            published.text[:, :-1], causal, encoded["image"], encoded["graph"], encoded["graph_mask"]
        )
    real = batch.token_mask[:, 1:]
    torch.testing.assert_close(output.word_logits[real], logits[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.encoded.region_logits, encoded["regions"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.encoded.observation_logits, encoded["diseases"], atol=1e-4, rtol=1e-4)


def test_the_command_lists_what_it_did_not_use_and_the_result_is_tested(
    small_trunk, release, tokens, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    assert main([str(release), "--vocabulary", str(tokens), "--out", str(out), *UNSEEN, "data.image_size=64"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}\n" in printed for name in UNUSED)
    assert f"Written: {out}" in printed
    root = write_tiny_dataset(tmp_path / "tiny", test=2)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Java, which this test has no need to wait for
    results = tmp_path / "results"
    arguments = ["--checkpoint", str(out), "--data", str(root), "--out", str(results), "data.workers=0"]
    assert main_test.main([*arguments, "eval.beam_size=2", "train.device=cpu"]) == 0
    metrics = json.loads((results / "metrics.json").read_text())
    assert (metrics["studies"], metrics["graph_source"], metrics["box_source"]) == (2, "predicted", "atlas")
    assert metrics["scores"]["bleu_1"] is not None


def test_training_on_other_words_starts_from_the_result_by_names(small_trunk, release, tokens, tmp_path, capsys):
    """As README says; at a learning rate of 0 the weights of the run are those that it began with."""
    out = tmp_path / "out"
    convert(release, tokens, out, [*UNSEEN, "data.image_size=64"])
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
        f"data.root={root}", f"results={tmp_path / 'results'}", "name=run", "data.workers=0", "data.batch_size=2",
        "data.min_word_count=1", "data.min_attribute_count=1", "train.max_steps=1", "train.epochs=1", "optim.lr=0",
        "optim.lr_patch_encoder=0", "train.monitor=bleu_4", "eval.meteor_in_validation=false", "train.device=cpu",
    ]
    assert main_train.main(["--config", str(out / "config.yaml"), *own, f"train.init_from={out}"]) == 0
    said = capsys.readouterr()
    assert f"Started from {out}" in said.out + said.err
    assert "decoder.word_head.bias keeps 1 of its 6 rows, which the checkpoint has not: another" in said.out + said.err
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
        assert convert(file, tokens, tmp_path / file.stem, UNSEEN) == UNUSED
    one, other = (load_checkpoint(tmp_path / name).weights for name in ("plain", "wrapped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_settings_that_the_weights_do_not_show_are_kept(small_trunk, release, tokens, tmp_path):
    overrides = [*UNSEEN, "model.encode=oa-pm", "model.sentence_attention=node", "eval.box_source=file",
                 "data.boxes_file=boxes.jsonl"]
    convert(release, tokens, tmp_path / "out", overrides)
    config = load_checkpoint(tmp_path / "out").config
    assert (config.model.encode, config.model.sentence_attention, config.eval.box_source) == ("oa-pm", "node", "file")


def test_objects_that_attend_are_seen_in_the_weights(small_trunk, tokens, tmp_path):
    state = release_state()
    for layer in range(2):
        at = f"scene_graph_encoder.sg_encoder.layers.{layer}."
        for part in ("weight", "bias"):  # the feed-forward's norm is the last of the layer
            state[f"{at}sublayer.2.norm.{part}"] = torch.full((WIDTH,), 2.0)
        for linear in range(4):
            state[f"{at}cross_attn.linears.{linear}.weight"] = torch.zeros(WIDTH, WIDTH)
            state[f"{at}cross_attn.linears.{linear}.bias"] = torch.zeros(WIDTH)
    file = write_release(tmp_path / "d.pth", state)
    assert convert(file, tokens, tmp_path / "out", UNSEEN) == UNUSED
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.config.model.encode == "oa-d"
    assert (checkpoint.weights["graph.encoder.layers.1.feed_forward.norm.weight"] == 2).all()


# What is refused


def refusal(capsys, state: dict | Path, tokens: Path, *overrides: str) -> str:
    """The one line on stderr of a conversion that is refused, and that leaves no folder."""
    folder = tokens.parent
    file = write_release(folder / "other.pth", state) if isinstance(state, dict) else state
    assert main([str(file), "--vocabulary", str(tokens), "--out", str(folder / "out"), *UNSEEN, *overrides]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not (folder / "out").exists()
    return said


def test_weights_of_another_size_are_refused_with_published_names_and_shapes(small_trunk, tokens, capsys):
    state = release_state()
    state["decoder.layers.0.cross_attn_img.linears.2.weight"] = torch.zeros(WIDTH, WIDTH + 1)
    state[TRUNK + "norm.weight"] = torch.zeros(65)
    said = refusal(capsys, state, tokens)
    assert "2 weights of" in said and "more" not in said
    assert "decoder.layers.0.cross_attn_img.linears.2.weight is [16, 17] there and [16, 16] here" in said
    assert f"{TRUNK}norm.weight is [65] there and [64] here" in said
    said = refusal(capsys, release_state(), tokens, "model.width=32")
    assert "att_embed.0.weight is [16, 64] there and [32, 64] here" in said and said.endswith("; and 93 more\n")


@pytest.mark.parametrize("name, shape, expected", [
    ("attribute_predictor.attribute_heads.3.weight", (1, 64), "[4, 64]"),
    ("attribute_predictor.attribute_heads.0.weight", (3, 64), "[1, 64]"),
    ("attribute_predictor.attribute_heads.3.weight", (4, 65), "[4, 64]"),
    ("scene_graph_encoder.att_embedding.weight", (sum(ATTRIBUTES), WIDTH), f"[{sum(ATTRIBUTES) + 1}, {WIDTH}]"),
    ("scene_graph_encoder.att_embedding.weight", (), f"[{sum(ATTRIBUTES) + 1}, {WIDTH}]"),
])
def test_attribute_heads_and_embeddings_have_published_sizes(name, shape, expected, small_trunk, tokens, capsys):
    said = refusal(capsys, release_state() | {name: torch.zeros(shape)}, tokens)
    assert f"{name} is {list(shape)} there and {expected} here" in said


@pytest.mark.parametrize("change, said", [
    ({"decoder.layers.0.feed_forward.w_1.weight": None}, "lacks decoder.layers.0.feed_forward.w_1.weight"),
    ({"rrg_head.weight": "text"}, "holds rrg_head.weight as str, not as a plain tensor"),
    ({"att_embed.0.weight": [1, 2]}, "holds att_embed.0.weight as list"),
    ({"att_embed.0.weight": 3}, "holds att_embed.0.weight as int"),
    ({"rrg_head.weight": torch.zeros(21, WIDTH).to_sparse()}, "holds rrg_head.weight as torch.sparse_coo"),
    ({5: torch.zeros(2)}, "calls a weight 5"),
    ({"attribute_predictor.attribute_heads.3.bias": torch.tensor(1.0)}, "attribute_heads.3.bias of"),
    ({"att_embed.0.weight": torch.tensor(1.0)}, "has no rows"),
    ({"vision_encoder.layers.7.norm": torch.zeros(2)}, "has vision_encoder.layers.7 but no vision_encoder.layers.1"),
])
def test_a_damaged_file_is_refused_in_one_line(change, said, small_trunk, tokens, tmp_path, capsys):
    state = {name: value for name, value in (release_state() | change).items() if value is not None}
    torch.save({"state_dict": state}, tmp_path / "damaged.pth")
    assert said in refusal(capsys, tmp_path / "damaged.pth", tokens)


def test_a_name_without_the_number_of_its_layer_is_not_used(small_trunk, tokens, tmp_path):
    file = write_release(tmp_path / "odd.pth", release_state() | {"vision_encoder.layers.x.norm": torch.zeros(2)})
    assert "vision_encoder.layers.x.norm" in convert(file, tokens, tmp_path / "out", UNSEEN)


@pytest.mark.parametrize("overrides, said", [
    (["model.localizer=true", "eval.box_source=localizer"], "model.localizer=true has no weights in a release"),
    (["model.share_attribute_names=true"], "model.share_attribute_names=true has no weights in a release"),
    (["model.gate=true"], "model.gate=true has no weights in a release"),
    (["model.fuse=concat"], "model.fuse=concat has no weights in a release"),
    (["model.sentence_attention=hierarchical"], "model.sentence_attention=hierarchical has no weights in a release"),
    (["model.patch_encoder.backbone=densenet121"], "backbone=densenet121 is not the release's trunk"),
])
def test_settings_that_would_leave_weights_random_are_refused(overrides, said, small_trunk, release, tokens, capsys):
    assert said in refusal(capsys, release, tokens, *overrides)


# Where the result goes


@pytest.mark.parametrize("out, said", [
    ("mydata", "holds sub, which a checkpoint there would replace"), (".", "which a checkpoint there would replace"),
    ("mydata/sub/..", "holds sub, which"), ("/", "which a checkpoint there would replace"),
    ("mydata/thesis.txt", "thesis.txt is no folder to write a checkpoint to"),
    ("mydata/thesis.txt/out", "or choose another place with --out"),
])
def test_nothing_of_others_is_replaced(out, said, small_trunk, release, tokens, tmp_path, capsys, monkeypatch):
    (tmp_path / "mydata/sub").mkdir(parents=True)
    (tmp_path / "mydata/sub/run.txt").write_text("precious")
    (tmp_path / "mydata/thesis.txt").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main([str(release), "--vocabulary", str(tokens), "--out", out, *UNSEEN]) == 1
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_and_an_earlier_result_are_written_to(small_trunk, release, tokens, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    convert(release, tokens, Path("."), UNSEEN)
    assert load_checkpoint(out).config.model.encode == "oa-c"
    convert(release, tokens, out, [*UNSEEN, "model.encode=oa-pm"])
    assert load_checkpoint(out).config.model.encode == "oa-pm"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_best.pth", "out", "tokens.json"]


def test_a_missing_weight_is_named(small_trunk, tokens, tmp_path):
    state = release_state()
    del state["region_selector.ff.bias"]
    with pytest.raises(UserError, match="region_selector.ff.bias"):
        convert(write_release(tmp_path / "lacking.pth", state), tokens, tmp_path / "out", UNSEEN)


def test_a_file_without_a_trunk_is_no_release(tokens, tmp_path):
    state = {name: value for name, value in release_state().items() if not name.startswith(TRUNK)}
    with pytest.raises(UserError, match=f"{TRUNK}norm.weight"):
        convert(write_release(tmp_path / "bare.pth", state), tokens, tmp_path / "out", UNSEEN)


class Intruder:
    """A pickle that would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_the_file_is_executed(tokens, tmp_path):
    proof = tmp_path / "executed"
    torch.save({"state_dict": release_state(), "monitor_best": Intruder(proof)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"state_dict": Intruder(proof)}, protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(UserError, match="weights alone"):
            convert(tmp_path / name, tokens, tmp_path / "out", UNSEEN)
    assert not proof.exists()


@pytest.mark.parametrize("value", [np.int64(3), np.bool_(True), np.float16(0.5), np.float32(0.5)], ids=str)
def test_numbers_of_numpy_are_read(value, small_trunk, tokens, tmp_path):
    torch.save({"state_dict": release_state(), "best_epoch": value}, tmp_path / "file.pth")
    assert convert(tmp_path / "file.pth", tokens, tmp_path / "out", UNSEEN) == UNUSED
    with pytest.raises(pickle.UnpicklingError):  # allowed for the conversion alone
        torch.load(tmp_path / "file.pth", weights_only=True)


@pytest.mark.parametrize("value, kind", [
    (defaultdict(dict), "collections.defaultdict"), (np.zeros(2), "numpy._core.multiarray._reconstruct"),
])
def test_what_is_not_read_for_safety_is_named(value, kind, tokens, tmp_path, capsys):
    torch.save({"state_dict": release_state(), "other": value}, tmp_path / "file.pth")
    said = refusal(capsys, tmp_path / "file.pth", tokens)
    assert f"weights alone: it holds a {kind}, which could execute code" in said
    assert "download" not in said and "\x1b" not in said


@pytest.mark.parametrize("content, said", [
    (None, "No checkpoint at"), (b"", "weights alone"), (b"no archive", "weights alone"),
])
def test_what_is_no_file_of_weights_is_refused(content, said, tokens, tmp_path):
    file = tmp_path / "file.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        convert(file, tokens, tmp_path / "out", UNSEEN)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, {"state_dict": [1]}])
def test_a_container_without_weights_is_refused(content, tokens, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match="no state_dict"):
        convert(tmp_path / "file.pth", tokens, tmp_path / "out", UNSEEN)


# Vocabularies


def annotation(words: list[str]) -> dict:
    """A training split in which each of `words` and the full stop occur ten times, and one more word nine times."""
    reports = [" ".join(words) + ".", *["rare " + " ".join(words) + "."] * 9]
    return {"train": [{"id": str(number), "report": report} for number, report in enumerate(reports)], "val": []}


@pytest.mark.parametrize("vocabulary", [
    WORDS,
    {word: index for index, word in enumerate(WORDS, start=1)},
    dict(reversed([(word, index) for index, word in enumerate(WORDS, start=1)])),
    annotation(WORDS[2:]),
])
def test_words_by_list_by_id_and_by_annotation(vocabulary, small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(vocabulary))
    convert(release, path, tmp_path / "out", UNSEEN)
    assert load_checkpoint(tmp_path / "out").vocabularies.tokenizer.words == tuple(WORDS)


@pytest.mark.parametrize("vocabulary, said", [
    (WORDS[:-1], r"gives 20 ids, but .* was trained with 21"),
    ([*WORDS, "more"], r"gives 22 ids, but .* was trained with 21"),
    ([word for word in WORDS if word != "<unk>"], "<unk>"),
    ([*WORDS[:-1], WORDS[0]], "every word once"),
    ({word: index for index, word in enumerate(WORDS)}, "ids are not 1 to 20"),
    ({word: index * 2 for index, word in enumerate(WORDS, start=1)}, "ids are not 1 to 20"),
    ({word: [index] for index, word in enumerate(WORDS, start=1)}, "ids are not 1 to 20"),
    ({"train": [{"id": "1"}]}, "report"),
    ({"train": [{"report": None}]}, "a report is no text"),
    ({"train": [{"report": 5}]}, "a report is no text"),
    ([*WORDS[:-1], 7], "7 is no word"),
    ([*WORDS[:-1], None], "None is no word"),
    ([*WORDS[:-1], True], "True is no word"),
    ([*WORDS[:-1], ""], "'' is no word"),
    ([*WORDS[:-1], "two words"], "'two words' is no word"),
    (3, "no vocabulary"),
])
def test_a_vocabulary_that_cannot_be_the_trained_one_is_refused(vocabulary, said, small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match=said):
        convert(release, path, tmp_path / "out", UNSEEN)


def test_an_annotation_may_begin_with_a_byte_order_mark(small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(annotation(WORDS[2:])), encoding="utf-8-sig")
    convert(release, path, tmp_path / "out", UNSEEN)
    assert load_checkpoint(tmp_path / "out").vocabularies.tokenizer.words == tuple(WORDS)


def test_a_word_may_be_called_train(small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    words = [*WORDS[:-1], "train"]
    path.write_text(json.dumps({word: index for index, word in enumerate(words, start=1)}))
    convert(release, path, tmp_path / "out", UNSEEN)
    assert load_checkpoint(tmp_path / "out").vocabularies.tokenizer.words == tuple(words)


@pytest.mark.parametrize("content", [None, "not json", "[" * 100_000], ids=["absent", "text", "deep"])
def test_a_vocabulary_that_cannot_be_read_is_refused(content, small_trunk, release, tmp_path):
    path = tmp_path / "vocabulary.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="vocabulary.json"):
        convert(release, path, tmp_path / "out", UNSEEN)


# Both ways


def test_to_official_is_the_inverse(small_trunk, release, tokens, tmp_path):
    convert(release, tokens, tmp_path / "out", UNSEEN)
    weights = load_checkpoint(tmp_path / "out").weights
    official = to_official(weights, ATTRIBUTES)
    state = release_state()
    assert official.keys() == state.keys() - set(UNUSED)
    padding_row = "scene_graph_encoder.att_embedding.weight"
    for name, value in official.items():
        expected = state[name]
        if name == padding_row:  # ours has no such row
            value, expected = value[:-1], expected[:-1]
        assert torch.equal(value, expected), name
    back, unused = from_official(official, list(weights), ATTRIBUTES)
    assert unused == []
    assert back.keys() == {name for name in weights if name != "graph.atlas" and "position_index" not in name}
    assert all(torch.equal(value, weights[name]) for name, value in back.items())


# The trunk


def test_swin_b_has_exactly_the_published_names_and_shapes():
    with torch.device("meta"):
        trunk = SwinTrunk(swin_b())
    ours = {
        official_trunk_name(f"patch_encoder.trunk.{name}"): tuple(value.shape)
        for name, value in trunk.state_dict().items() if not name.endswith("relative_position_index")
    }
    assert len(ours) == len(list(trunk.parameters()))
    assert ours == {TRUNK + name: shape for name, shape in published_swin_shapes(**SWIN_B).items()}


WINDOW, PICTURE = 4, 128
STAGES = {"embed": 8, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "window": WINDOW}


def windows(maps: Tensor) -> Tensor:
    """[B, H, W, C] -> [B * windows, WINDOW ** 2, C], row by row."""
    studies, height, width, channels = maps.shape
    cut = maps.view(studies, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW**2, channels)


def swin_block(maps: Tensor, weights: dict[str, Tensor], at: str, heads: int, shift: int) -> Tensor:
    """x + windowed attention, then x + MLP, as published; maps [B, H, W, C]."""
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
    if shift:  # neighbours in a rolled window that were none in the picture do not see each other
        band = torch.zeros(side)
        band[-WINDOW:], band[-shift:] = 1, 2
        zone = windows((band[:, None] * 3 + band)[None, :, :, None]).squeeze(-1)  # [windows, WINDOW ** 2]
        apart = (zone[:, :, None] != zone[:, None, :]).repeat(studies, 1, 1).unsqueeze(1)
        scores = scores.masked_fill(apart, -100.0)
    answer = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    answer = F.linear(answer, *part("attn.proj"))
    answer = answer.view(studies, side // WINDOW, side // WINDOW, WINDOW, WINDOW, channels)
    answer = answer.permute(0, 1, 3, 2, 4, 5).reshape(maps.shape).roll((shift, shift), (1, 2))
    maps = maps + answer
    hidden = F.gelu(F.linear(F.layer_norm(maps, [channels], *part("norm2")), *part("mlp.fc1")))
    return maps + F.linear(hidden, *part("mlp.fc2"))


def independent_swin(images: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """The outputs [B, H, W, C] of the embedding, of every block, of every merging and of the last norm, in order."""
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


def test_a_small_swin_gives_the_published_outputs_block_by_block():
    official = random_weights(published_swin_shapes(**STAGES), seed=5)
    trunk = SwinTrunk(SwinTransformer(
        [4, 4], STAGES["embed"], list(STAGES["depths"]), list(STAGES["heads"]), [WINDOW, WINDOW],
        stochastic_depth_prob=0.0,
    )).eval()
    names = [f"patch_encoder.trunk.{name}" for name in trunk.state_dict()]
    weights, unused = from_official({TRUNK + name: value for name, value in official.items()}, names, [])
    assert unused == []
    missing, _ = trunk.load_state_dict(
        {name.removeprefix("patch_encoder.trunk."): value for name, value in weights.items()}, strict=False
    )
    assert all(name.endswith("relative_position_index") for name in missing)

    seen: list[Tensor] = []
    for position, stage in enumerate(trunk.features):
        for part in stage if position % 2 and isinstance(stage, nn.Sequential) else [stage]:
            part.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(2, 3, PICTURE, PICTURE, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        seen.append(trunk(images).permute(0, 2, 3, 1))
    expected = independent_swin(images, official)
    assert len(seen) == len(expected) == 1 + sum(STAGES["depths"]) + 3 + 1
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
