"""The Python blocks of docs/extending.md run, and what they define works with the rest of the program."""

import re
from pathlib import Path

import pytest
import torch

from data.collate import collate
from data.images.network_input import to_network_input
from models.outputs import BoxSource, GraphSource
from models.patch_encoder import PatchEncoder
from modules import builders
from modules.config import Config, load_config
from modules.model_inputs import model_inputs

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/extending.md"
TINY = [
    "data.root=mine", "data.image_size=64", "data.min_word_count=1", "data.min_attribute_count=1", "model.width=32",
    "model.heads=4", "model.feedforward=32", "model.image_layers=1", "model.graph_layers=1", "model.decoder_layers=1",
    "model.memory_slots=8", "model.memory_heads=4", "model.memory_top=4", "model.dropout=0", "model.image_dropout=0",
    "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none",
]


def block(heading: str) -> dict:
    """Execute the Python block under a heading of the document, and return the names that it defines."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    names: dict = {"__name__": "extending"}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1), names)
    return names


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    """The configuration of a tiny model on the data set that the document writes."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block("Your own data set")
    return load_config(None, TINY)


def first_batch(config: Config, vocabularies):
    """A batch of the first study."""
    dataset = builders.build_dataset(config, vocabularies, "train")
    return to_network_input(collate([dataset[0]], vocabularies.tokenizer.pad_id))


def test_own_data_set_is_read_as_written(config):
    vocabularies = builders.build_vocabularies(config)
    batch = first_batch(config, vocabularies)
    angle = vocabularies.anatomy.index("left costophrenic angle")
    effusion = vocabularies.attributes.index(angle, "anatomicalfinding|yes|pleural effusion")
    assert batch.images.shape == (1, 1, 3, 64, 64)
    assert batch.regions.mentioned[0].nonzero().flatten().tolist() == [angle]
    assert batch.regions.boxes[0, angle].tolist() == pytest.approx([0.78, 0.74, 0.94, 0.86])
    assert batch.regions.attributes[0, angle, effusion]
    assert batch.observations[0].nonzero().flatten().tolist() == [vocabularies.observations.index("Pleural Effusion")]
    assert "effusion" in vocabularies.tokenizer.decode(batch.token_ids[0].tolist())


def test_own_trunk_writes_reports(config, monkeypatch):
    trunk = block("Your own trunk")["PatchTrunk"]
    monkeypatch.setattr(builders, "build_patch_encoder", lambda *_: PatchEncoder(trunk(), 48))
    vocabularies = builders.build_vocabularies(config)
    model = builders.build_model(config, vocabularies).eval()
    batch = first_batch(config, vocabularies)
    sources = (GraphSource.PREDICTED, BoxSource.LOCALIZER)
    with torch.no_grad():
        generation = model.generate(model_inputs(batch, *sources), *sources, beam_size=2, max_tokens=6)
    assert generation.encoded.memory.shape == (1, 16, 32)
    assert 1 <= generation.token_ids.shape[1] <= 5


def test_own_loss_adds_its_term_and_its_gradient(config):
    vocabularies = builders.build_vocabularies(config)
    model = builders.build_model(config, vocabularies)
    batch = first_batch(config, vocabularies)
    sources = (GraphSource.ORACLE, BoxSource.LOCALIZER)
    output = model(
        model_inputs(batch, *sources, training=True), batch.token_ids, batch.token_mask, *sources
    )
    plain = builders.build_criterion(config, vocabularies)
    criterion = block("Your own loss")["WithConfidencePenalty"](plain, weight=0.5)

    counts = criterion.counts(batch)
    losses = criterion(output, batch, counts)
    log_probabilities = output.word_logits.log_softmax(-1)
    negative_entropy = (log_probabilities.exp() * log_probabilities).sum(-1).mean()

    assert len(counts) == len(criterion.TERMS)
    assert losses.terms["confidence"].item() == pytest.approx(negative_entropy.item(), rel=1e-5)
    expected = plain(output, batch, plain.counts(batch)).total + 0.5 * negative_entropy
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    gradient = torch.autograd.grad(losses.terms["confidence"], model.decoder.word_head.weight)[0]
    assert gradient.abs().sum() > 0
