"""Precisions and devices: bf16, fake tensors on a GPU, and a real GPU."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.batch import Batch
from models.layers import packing
from models.outputs import BoxSource, GraphSource
from models.patch_encoder import PatchEncoder
from models.sgrrg import SGRRG
from modules.builders import build_criterion

# Arithmetic and devices
from tests.support.connected_model import (
    CONNECTIONS,
    ENCODES,
    SENTENCE_ATTENTIONS,
    assert_finite_gradients,
    connected,
    generate,
)
from tests.support.tiny_model import (
    CHANNELS,
    losses_of,
    teacher_forced,
    tiny_batch,
    tiny_config,
    tiny_model,
    tiny_vocabularies,
)


@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_bf16_on_the_cpu_stays_close(encode, sentence_attention):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true")
    model, batch = connected(encode, sentence_attention, *overrides), tiny_batch(3)
    expected = losses_of(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = teacher_forced(model, batch)
        generation = generate(model, batch)
    assert output.word_logits.dtype == torch.bfloat16
    criterion = build_criterion(tiny_config(), tiny_vocabularies())
    losses = criterion(output, batch, criterion.counts(batch))
    for name, term in losses.terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected.terms[name], atol=0.15, rtol=0.1, msg=name)
    assert_finite_gradients(model, losses)
    assert generation.scores.dtype == torch.float32 and torch.isfinite(generation.scores).all()


@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_aligned_rows_change_no_loss_and_no_gradient(encode, sentence_attention, monkeypatch):
    found = []
    for multiple in (1, 7):
        monkeypatch.setattr(packing, "ROW_MULTIPLE", multiple)
        model, batch = connected(encode, sentence_attention), tiny_batch(3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = teacher_forced(model, batch)
        criterion = build_criterion(tiny_config(), tiny_vocabularies())
        losses = criterion(output, batch, criterion.counts(batch))
        losses.total.backward()
        found.append((losses.terms, {name: weight.grad for name, weight in model.named_parameters()}))
    torch.testing.assert_close(found[1], found[0], atol=0.01, rtol=0.02)


class OneCellTrunk(nn.Module):
    """A trunk of pooling and a 1x1 convolution."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, CHANNELS, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(nn.functional.avg_pool2d(images, 8))


def onto(mode: FakeTensorMode, model: SGRRG, device: str) -> None:
    """Replace every parameter and buffer by a fake tensor on `device`, as `model.to(device)` would move real ones."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(parameter).detach().to(device))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer).to(device)


def fake_batch(mode: FakeTensorMode, batch: Batch, device: str) -> Batch:
    """`batch` with fake tensors on `device`."""

    def fake(record):
        values = {name: mode.from_tensor(v) if isinstance(v, Tensor) else v for name, v in vars(record).items()}
        return replace(record, **values)

    return replace(fake(batch), regions=fake(batch.regions)).to(device)


@pytest.fixture
def sizes_without_values(monkeypatch):
    """Fake tensors have no values, so sizes must not depend on them."""

    monkeypatch.setattr(packing, "sizes_are_static", lambda: True)


@pytest.mark.parametrize(("encode", "sentence_attention"), list(zip(ENCODES, SENTENCE_ATTENTIONS, strict=True)))
def test_no_tensor_stays_on_the_cpu(encode, sentence_attention, sizes_without_values):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true", "model.dropout=0.1")
    model = connected(encode, sentence_attention, *overrides)
    model.patch_encoder = PatchEncoder(OneCellTrunk(), CHANNELS)
    batch = tiny_batch(2, views=2)
    with FakeTensorMode() as mode:
        criterion = build_criterion(tiny_config(), tiny_vocabularies())
        onto(mode, model, "cuda")
        batch = fake_batch(mode, batch, "cuda")
        for source, boxes in (
            (GraphSource.ORACLE, BoxSource.LOCALIZER), (GraphSource.PREDICTED, BoxSource.ORACLE_BOXES),
            (GraphSource.MIXED, BoxSource.ATLAS), (GraphSource.NONE, BoxSource.LOCALIZER),
        ):
            output = teacher_forced(model, batch, source, boxes, 0.5)
            losses = criterion(output, batch, criterion.counts(batch))
            assert losses.total.device.type == "cuda"
        model.eval()
        for settings in ({"beam_size": 1}, {"beam_size": 3}, {"sampled": True}):
            written = generate(model, batch, max_tokens=4, **settings)
            assert written.token_ids.device.type == written.scores.device.type == "cuda"


def test_fake_tensors_catch_what_stays_on_the_cpu(sizes_without_values):
    model, batch = tiny_model(), tiny_batch(2)
    with FakeTensorMode() as mode:
        onto(mode, model, "cuda")
        model.graph.encoder.attribute_offsets = model.graph.encoder.attribute_offsets.cpu()
        with pytest.raises(RuntimeError, match="cpu"):
            teacher_forced(model, fake_batch(mode, batch, "cuda"))


@pytest.fixture
def full_precision_convolutions():
    """Disable TF32, so that convolutions are as exact as on the CPU."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_one_step_on_a_gpu(encode, sentence_attention, precision, full_precision_convolutions):
    overrides = ("model.graph_in=both", "model.fuse=concat", "model.gate=true")
    model, batch = connected(encode, sentence_attention, *overrides), tiny_batch(3)
    expected = losses_of(model, batch).terms
    model, batch = model.cuda(), batch.to("cuda")
    criterion = build_criterion(tiny_config(), tiny_vocabularies())
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        output = teacher_forced(model, batch)
    losses = criterion(output, batch, criterion.counts(batch))
    tolerance = 1e-3 if precision == torch.float32 else 0.15
    for name, term in losses.terms.items():
        torch.testing.assert_close(term.cpu(), expected[name], atol=tolerance, rtol=tolerance, msg=name)
    assert_finite_gradients(model, losses)
    model.eval()
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        for graph_source in (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE):
            for beams in (1, 3):
                written = generate(model, batch, graph_source, beam_size=beams)
                assert torch.isfinite(written.scores).all()


@pytest.mark.gpu
def test_gpu_and_cpu_write_the_same_reports(full_precision_convolutions):
    model, batch = tiny_model().eval(), tiny_batch(3)
    expected = generate(model, batch, beam_size=3)
    written = generate(model.cuda(), batch.to("cuda"), beam_size=3)
    assert torch.equal(written.token_ids.cpu(), expected.token_ids)
    torch.testing.assert_close(written.scores.cpu(), expected.scores, atol=1e-3, rtol=1e-3)
