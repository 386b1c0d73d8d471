"""Equality with the published model, array by array, over recorded numbers of it.

`SGRRG_PARITY_DIR` names a folder of recordings (its README describes every array); absent, the test skips.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.batch import Batch, RegionAnnotation
from models.attribute_predictor import AttributePredictor
from models.graph_attention import GraphAttention
from models.image_encoder import ImageEncoder
from models.layers.packing import Packing
from models.outputs import BoxSource, Generation, GraphAnnotation, GraphSource, ModelInputs, SceneGraph
from models.patch_encoder import Patches
from models.proxy_heads import ObservationHead
from models.region_pooler import RegionPooler, pool_maximum
from models.region_selector import RegionMemory, RegionSelector
from models.report_decoder import ReportDecoder
from models.scene_graph_encoder import SceneGraphEncoder
from models.sgrrg import SGRRG, GraphParts
from modules.release.published_weights import from_official, to_official
from modules.training.losses import Losses, ReportCriterion
from tests.support.reference_search import competing_search, score_of

PARITY_DIR = Path(os.environ.get("SGRRG_PARITY_DIR", Path(__file__).parents[2] / "shared" / "parity" / "open"))
FILES = sorted(PARITY_DIR.glob("*.npz"))
TENSOR = {"atol": 2e-5, "rtol": 1e-4}
FUSE = {"att": "attention"}  # the release's other two are formed otherwise than ours (docs/differences.md)
# Our loss terms, the published ones, and the settings that weigh them.
TERMS = {
    "report": ("ce", None), "observations": ("dis", "dis_cls_w"), "regions": ("region", "region_cls_w"),
    "attributes": ("att", "att_cls_w"), "contrast": ("disr", "disr_w"),
}

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no recordings of the published model in {PARITY_DIR} (set SGRRG_PARITY_DIR)"
)


class RecordedPatches(nn.Module):
    """Stands for the trunk, which the recordings leave out: the recorded patch features, whatever the images."""

    def __init__(self, patches: Tensor):
        super().__init__()
        self.patches = patches

    def forward(self, images: Tensor, view_mask: Tensor, views: int | None = None) -> Patches:
        side = int(self.patches.shape[1] ** 0.5)
        grid = self.patches.transpose(1, 2).unflatten(-1, (side, side))
        return Patches(self.patches, torch.ones(self.patches.shape[:2], dtype=torch.bool), grid)


@dataclass
class Recording:
    """One file: arrays as tensors, settings, and the model built from them with the recorded weights."""

    arrays: dict[str, Tensor]
    numbers: dict[str, float]
    options: dict[str, str]
    model: SGRRG
    sizes: list[int]
    grad_names: list[str]

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    @property
    def has_graph(self) -> bool:
        return self.options["use_sg"] == "True"


def load(path: Path) -> Recording:
    with np.load(path) as file:
        raw = {name: file[name] for name in file.files}
    numbers = dict(zip(raw["config/names"].tolist(), raw["config/values"].tolist(), strict=True))
    options = dict(line.split("=", 1) for line in raw["config/text"].tolist())
    arrays = {name: torch.from_numpy(value) for name, value in raw.items() if value.dtype.kind in "fib"}
    grad_names = raw["grad/names"].tolist()
    heads = sum(name.startswith("param/attribute_predictor.attribute_heads.") for name in raw) // 2
    sizes = [len(raw[f"param/attribute_predictor.attribute_heads.{region}.bias"]) for region in range(heads)]
    model = build(arrays, numbers, options, sizes)
    official = {name.removeprefix("param/"): value for name, value in arrays.items() if name.startswith("param/")}
    weights, unused = from_official(official, list(model.state_dict()), sizes)
    assert unused == ["word_embedding.pe"]
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.startswith("graph.atlas") for name in missing)
    return Recording(arrays, numbers, options, model.eval(), sizes, grad_names)


def build(arrays: dict[str, Tensor], numbers: dict[str, float], options: dict[str, str], sizes: list[int]) -> SGRRG:
    width, hidden, channels = (int(numbers[name]) for name in ("d_model", "d_ff", "d_vf"))
    heads, layers_in, layers_out = (int(numbers[name]) for name in ("num_heads", "num_layers_en", "num_layers_de"))
    longest, words = int(numbers["max_seq_length"]), int(numbers["vocab_size"])
    graph = observation_head = attentions = None
    if options["use_sg"] == "True":
        memory = RegionMemory(channels, int(numbers["num_mem"]), int(numbers["num_heads_r"]), int(numbers["topk"]))
        if options["sgade"] == "True":  # the decoder attends to the graph
            attention = "subgraph" if options["sub_graph_attn"] == "True" else "node"
            fuse = FUSE[options["fuse_opt"]]
            attentions = [GraphAttention(width, heads, 0.0, attention, fuse) for _ in range(layers_out)]
        observation_head = ObservationHead(channels, int(numbers["num_diseases"]))
        graph = GraphParts(
            RegionSelector(channels, len(sizes), memory=memory), RegionPooler(channels),
            AttributePredictor(channels, sizes),
            SceneGraphEncoder(
                channels, width, heads, hidden, layers_in, sizes, encode=options["encode_type"],
                pooling=options["pooling"],
            ),
            localizer=None, atlas=torch.zeros(len(sizes), 4),
            region_threshold=numbers["region_select_threshold"], attribute_threshold=numbers["att_select_threshold"],
        )
    return SGRRG(
        RecordedPatches(arrays["in/patch_feats"]), ImageEncoder(channels, width, heads, hidden, layers_in),
        ReportDecoder(words, width, heads, hidden, layers_out, longest, graph_attentions=attentions),
        graph, observation_head, bos_id=0, eos_id=0, pad_id=0,
    )


def batch_of(recording: Recording) -> Batch:
    """The recorded inputs in fixed region slots."""
    text, mask = recording["in/text"], recording["in/mask"].bool()
    studies = len(text)
    regions, largest = max(len(recording.sizes), 1), max(recording.sizes, default=1)
    annotation = RegionAnnotation(
        boxes=torch.zeros(studies, regions, 4), visible=torch.zeros(studies, regions, dtype=torch.bool),
        mentioned=torch.zeros(studies, regions, dtype=torch.bool),
        abnormal=torch.zeros(studies, regions, dtype=torch.bool),
        attributes=torch.zeros(studies, regions, largest, dtype=torch.bool),
        graph_known=torch.full((studies,), recording.has_graph),
        boxes_known=torch.full((studies,), recording.has_graph),
    )
    observations = torch.zeros(studies, 1)
    if recording.has_graph:
        observations = recording["in/disease_labels"]
        study, region = recording["in/boxes"][:, 0].long(), recording["in/box_labels"]
        annotation.boxes[study, region] = recording["in/boxes"][:, 1:] / recording.numbers["image_size"]
        annotation.visible[study, region] = True
        annotation.abnormal[study, region] = recording["in/box_abnormal_labels"].bool()
        annotation.mentioned[:] = recording["in/region_labels"].bool()
        offsets = np.cumsum([0, *recording.sizes])
        chosen = recording["in/box_masks"]
        for row, ids in zip(chosen.nonzero().flatten(), recording["in/attribute_ids"], strict=True):
            for identifier in ids[ids >= 0].tolist():
                annotation.attributes[study[row], region[row], identifier - offsets[region[row]]] = True
    return Batch(
        study_ids=[str(i) for i in range(studies)], images=torch.zeros(studies, 1, 3, 1, 1),
        view_mask=torch.ones(studies, 1, dtype=torch.bool), frontal=torch.ones(studies, dtype=torch.bool),
        regions=annotation, observations=observations, observations_known=torch.ones_like(observations).bool(),
        token_ids=text, token_mask=mask, references=[""] * studies,
        detector_boxes=annotation.boxes, detector_visible=annotation.visible,
    )


def inputs_of(batch: Batch, oracle: bool) -> ModelInputs:
    annotation = GraphAnnotation(**vars(batch.regions)) if oracle else None
    return ModelInputs(
        batch.images, batch.view_mask, batch.frontal, batch.detector_boxes, batch.detector_visible, annotation
    )


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def recording(request) -> Recording:
    with np.load(request.param) as file:
        options = dict(line.split("=", 1) for line in file["config/text"].tolist())
        margin = file["config/values"][file["config/names"].tolist().index("pos_margin")]
    if options["fuse_opt"] not in FUSE:
        pytest.skip(f"fuse_opt={options['fuse_opt']} is formed otherwise than ours (docs/differences.md)")
    if margin != 0:
        pytest.skip(f"pos_margin={margin}: our contrast has the published default of 0 alone")
    return load(request.param)


@contextmanager
def watched(recording: Recording) -> Iterator[dict[str, Tensor]]:
    """What passes inside the model meanwhile, under its published name.

    embedded_img [B, N, D]; with a graph box_feats [B, R, C] in our slots, and node_in and node_out [P, D], the valid
    nodes of all sub-graphs, study by study and region by region.
    """
    seen: dict[str, Tensor] = {}
    model = recording.model
    inputs_of_layers, outputs_of = {"embedded_img": model.image_encoder.layers[0]}, {}
    if recording.has_graph:
        inputs_of_layers["node_in"] = model.graph.encoder.layers[0]
        outputs_of = {"node_out": model.graph.encoder.norm, "box_feats": model.graph.pooler}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
        for name, layer in inputs_of_layers.items()
    ] + [
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
        for name, module in outputs_of.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def train_step(recording: Recording) -> tuple[object, Losses, Batch]:
    batch = batch_of(recording)
    source = GraphSource.ORACLE if recording.has_graph else GraphSource.NONE
    output = recording.model(
        inputs_of(batch, recording.has_graph), batch.token_ids, batch.token_mask, source, BoxSource.FILE
    )
    numbers = recording.numbers
    weights = {
        term: 1.0 if weight is None else numbers[weight]
        for term, (published, weight) in TERMS.items() if f"loss/{published}" in recording.arrays
    }
    slots = torch.zeros(1, 1, dtype=torch.bool)
    if recording.has_graph:
        slots = recording.model.graph.attribute_predictor.slots
    criterion = ReportCriterion(weights, slots, numbers["neg_margin"])
    return output, criterion(output, batch, criterion.counts(batch)), batch


def graph_rows(recording: Recording, encoded, mask: Tensor) -> list[tuple[int, int]]:
    """Our (study, region) of each recorded sub-graph row, which come in the order of the recorded boxes."""
    study, region = recording["in/boxes"][:, 0].long().tolist(), recording["in/box_labels"].tolist()
    return [pair for pair, kept in zip(zip(study, region, strict=True), mask.tolist(), strict=True) if kept]


def check_subgraphs(recording: Recording, graph, recorded: Tensor, rows: list[tuple[int, int]]) -> None:
    """Compare `recorded` [B, rows, D] of a study, in box order, with our slots."""
    next_row = [0] * len(recorded)
    if recording.options["sub_graph_attn"] == "True":
        for study, region in rows:
            torch.testing.assert_close(graph.embeddings[study, region], recorded[study, next_row[study]], **TENSOR)
            next_row[study] += 1
    else:  # every node has its row
        for study, region in rows:
            nodes = graph.nodes[study, region][graph.node_mask[study, region]]
            expected = recorded[study, next_row[study] : next_row[study] + len(nodes)]
            torch.testing.assert_close(nodes, expected, **TENSOR)
            next_row[study] += len(nodes)


def check_features(ours: Tensor, recorded: Tensor, rows: list[tuple[int, int]]) -> None:
    """Compare region features [B, R, C] with those recorded of sub-graphs `rows`, [rows, C]."""
    study, region = torch.tensor(rows).T
    torch.testing.assert_close(ours[study, region], recorded, **TENSOR)


def check_nodes(recording: Recording, ours: Tensor, recorded: Tensor, rows: list[tuple[int, int]]) -> None:
    """Compare packed nodes [P, D], study by study and region by region, with those recorded of sub-graphs `rows`.

    They have a row each, object first; in `oa-pm` a row a study, one sub-graph after the other.
    """
    sizes = [1 + len(ids[ids >= 0]) for ids in recording["in/attribute_ids"]]
    ordered = sorted(zip(rows, sizes, strict=True))
    starts = dict(zip((pair for pair, _ in ordered), np.cumsum([0, *(size for _, size in ordered)]), strict=False))
    assert len(ours) == sum(sizes)
    next_node = [0] * len(recorded)
    for row, ((study, region), size) in enumerate(zip(rows, sizes, strict=True)):
        at = study if recording.options["encode_type"] == "oa-pm" else row
        expected = recorded[at, next_node[at] : next_node[at] + size]
        next_node[at] += size
        start = starts[study, region]
        torch.testing.assert_close(ours[start : start + size], expected, **TENSOR)


def test_teacher_forcing(recording):
    with watched(recording) as seen:
        output, _, batch = train_step(recording)
    encoded = output.encoded
    torch.testing.assert_close(output.word_logits[batch.token_mask[:, 1:]],
                               recording["train/rrg_logits"][batch.token_mask[:, 1:]], **TENSOR)
    torch.testing.assert_close(seen["embedded_img"], recording["train/embedded_img"], **TENSOR)
    torch.testing.assert_close(encoded.memory, recording["train/encoded_img"], **TENSOR)
    if not recording.has_graph:
        return
    torch.testing.assert_close(encoded.region_logits, recording["train/region_logits"], **TENSOR)
    torch.testing.assert_close(encoded.observation_logits, recording["train/dis_logits"], **TENSOR)
    rows = graph_rows(recording, encoded, recording["in/box_masks"])
    assert int(encoded.graph.selected.sum()) == len(rows)
    for (study, region), recorded in zip(rows, recording["train/att_logits"], strict=True):
        size = recording.sizes[region]
        torch.testing.assert_close(encoded.attribute_logits[study, region, :size], recorded[:size], **TENSOR)
    check_subgraphs(recording, encoded.graph, recording["train/sg_embeds"], rows)
    check_features(seen["box_feats"], recording["train/box_feats"], rows)
    for name in ("node_in", "node_out"):
        check_nodes(recording, seen[name], recording[f"train/{name}"], rows)


def test_pooled_cells(recording):
    if not recording.has_graph:
        pytest.skip("no regions in this recording")
    boxes = recording["train/sel_boxes"]
    grid = recording.model.patch_encoder(None, None).frontal_grid
    pooled = pool_maximum(grid, boxes[:, 1:] / recording.numbers["image_size"], boxes[:, 0].long())
    torch.testing.assert_close(pooled, recording["train/roi_feats"], **TENSOR)


def test_losses_and_gradients(recording):
    recording.model.zero_grad()
    _, losses, _ = train_step(recording)
    recorded = {term for term, (published, _) in TERMS.items() if f"loss/{published}" in recording.arrays}
    assert set(losses.terms) == recorded
    for term, value in losses.terms.items():
        assert value.item() == pytest.approx(float(recording[f"loss/{TERMS[term][0]}"]), abs=1e-5), term
    assert losses.total.item() == pytest.approx(float(recording["loss/total"]), abs=1e-5)
    losses.total.backward()
    ours = {
        name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for name, parameter in recording.model.named_parameters()
    }
    gradients = to_official(ours, recording.sizes)
    norms = dict(zip(recording.grad_names, recording["grad/norms"].tolist(), strict=True))
    assert set(gradients) == set(norms)
    for name, gradient in gradients.items():
        assert float(gradient.double().norm()) == pytest.approx(norms[name], rel=1e-3, abs=1e-6), name


def decode(recording: Recording, mode: str, beams: int):
    batch = batch_of(recording)
    source = {"gold": GraphSource.ORACLE, "pred": GraphSource.PREDICTED, "nograph": GraphSource.NONE}[mode]
    with torch.inference_mode():
        return recording.model.generate(
            inputs_of(batch, mode == "gold"), source, BoxSource.FILE, beam_size=beams,
            max_tokens=int(recording.numbers["max_seq_length"]),
        )


def check_beam_search(recording: Recording, mode: str, best: Generation) -> None:
    """The recorded search, in which finished hypotheses take places, over the model's logits; ours is never worse."""
    recorded_ids, recorded_scores = recording[f"{mode}/beam3_textbook_ids"], recording[f"{mode}/beam3_textbook_score"]
    encoded, decoder = best.encoded, recording.model.decoder
    for study, recorded in enumerate(recorded_ids.tolist()):
        one = slice(study, study + 1)
        graph = encoded.graph and SceneGraph(**{name: value[one] for name, value in vars(encoded.graph).items()})

        def logits(tokens: list[int], one: slice = one, graph: SceneGraph | None = graph) -> Tensor:
            ids = torch.tensor([[recording.model.bos_id, *tokens]])
            packing = Packing.from_mask(torch.ones_like(ids, dtype=torch.bool))
            with torch.inference_mode():
                return decoder(ids, packing, encoded.memory[one], encoded.memory_mask[one], graph)[-1]

        found = competing_search(logits, 3, len(recorded), recording.model.eos_id, set())
        assert found[0] + [0] * (len(recorded) - len(found[0])) == recorded
        torch.testing.assert_close(torch.tensor(score_of(found)), recorded_scores[study], **TENSOR)
        assert best.scores[study] >= recorded_scores[study] - 1e-4
        if best.scores[study] <= recorded_scores[study] + 1e-4:
            assert best.token_ids[study].tolist() == recorded


@pytest.mark.parametrize("mode", ["gold", "pred", "nograph"])
def test_decoding(recording, mode):
    if f"{mode}/greedy_ids" not in recording.arrays:
        pytest.skip(f"no '{mode}' decoding in this recording")
    logits, step = [], recording.model.decoder.step

    def watched_step(*arguments) -> Tensor:
        logits.append(step(*arguments))
        return logits[-1]

    with mock.patch.object(recording.model.decoder, "step", watched_step):
        greedy = decode(recording, mode, beams=1)
    torch.testing.assert_close(greedy.token_ids, recording[f"{mode}/greedy_ids"])
    torch.testing.assert_close(greedy.encoded.memory, recording[f"{mode}/encoded_img"], **TENSOR)
    log_probs = torch.stack(logits, 1).log_softmax(-1)  # [B, steps, W]
    for study, ids in enumerate(greedy.token_ids.tolist()):
        steps = ids.index(0) + 1 if 0 in ids else len(ids)  # what follows the end has no meaning
        recorded = recording[f"{mode}/greedy_logp"][study, :steps]
        torch.testing.assert_close(log_probs[study, :steps], recorded, **TENSOR)
        chosen = recorded[torch.arange(steps), greedy.token_ids[study, :steps]]
        torch.testing.assert_close(greedy.token_log_probs[study, :steps], chosen, **TENSOR)
    if mode == "gold":
        rows = graph_rows(recording, greedy.encoded, recording["in/box_masks"])
        check_subgraphs(recording, greedy.encoded.graph, recording["gold/sg_embeds"], rows)
    check_beam_search(recording, mode, decode(recording, mode, beams=3))


@pytest.mark.parametrize("mode", ["gold", "pred", "nograph"])
def test_endless_beam_search(recording, mode):
    if f"{mode}/beam3_noeos_ids" not in recording.arrays:
        pytest.skip(f"no '{mode}' decoding in this recording")
    bias = recording.model.decoder.word_head.bias
    kept = bias[0].item()
    try:
        bias.data[0] = -60.0
        torch.testing.assert_close(
            decode(recording, mode, beams=3).token_ids, recording[f"{mode}/beam3_noeos_ids"]
        )
    finally:
        bias.data[0] = kept


def test_predicted_graph(recording):
    if not recording.has_graph:
        pytest.skip("no graph in this recording")
    with watched(recording) as seen:
        encoded = decode(recording, "pred", beams=1).encoded
    study, region = recording["pred/sel_boxes"][:, 0].long(), recording["pred/sel_labels"]
    selected = torch.zeros_like(encoded.graph.selected)
    selected[study, region] = True
    assert torch.equal(encoded.graph.selected, selected)
    torch.testing.assert_close(encoded.region_logits, recording["pred/region_logits"], **TENSOR)
    torch.testing.assert_close(torch.sigmoid(encoded.region_logits), recording["pred/region_probs"], **TENSOR)
    offsets = np.cumsum([0, *recording.sizes])
    for row, (i, r) in enumerate(zip(study.tolist(), region.tolist(), strict=True)):
        size = recording.sizes[r]
        recorded = recording["pred/att_logits"][row, :size]
        torch.testing.assert_close(encoded.attribute_logits[i, r, :size], recorded, **TENSOR)
        ids = recording["pred/attribute_ids"][row]
        given = encoded.graph.attributes[i, r].nonzero().flatten() + offsets[r]
        assert given.tolist() == ids[ids >= 0].tolist()
    rows = list(zip(study.tolist(), region.tolist(), strict=True))
    check_subgraphs(recording, encoded.graph, recording["pred/sg_embeds"], rows)
    check_features(seen["box_feats"], recording["pred/box_feats"], rows)
