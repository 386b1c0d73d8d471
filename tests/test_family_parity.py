"""Equality with R2Gen, R2GenCMN, CAMANet and XProNet, array by array, over recorded numbers of their released code.

`SGRRG_FAMILY_PARITY_DIR` names a folder of recordings (its README describes every array); absent, the test skips.
"""

import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from models.family import discriminative_map
from models.layers.packing import Packing
from models.outputs import SGRRGOutput
from modules.training.loss_terms import response_contrast
from tests.support.family.recording import TENSOR, Recording, load
from tests.support.reference_search import competing_search, score_of

DEFAULT_DIR = Path(__file__).parents[2] / "shared" / "parity" / "family" / "open"
PARITY_DIR = Path(os.environ.get("SGRRG_FAMILY_PARITY_DIR", DEFAULT_DIR))
FILES = sorted(PARITY_DIR.glob("*.npz"))

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no recordings of the R2Gen family in {PARITY_DIR} (set SGRRG_FAMILY_PARITY_DIR)"
)


@pytest.fixture(autouse=True)
def published_number_of_words(monkeypatch):
    """CAMANet limits the number of aggregated words by the longest report of the batch; ours depends on one study."""
    ours = discriminative_map.words_to_aggregate

    def limited(is_word: Tensor, share: float) -> Tensor:
        return ours(is_word, share).clamp(max=int(share * is_word.shape[1]))

    monkeypatch.setattr(discriminative_map, "words_to_aggregate", limited)


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def recording(request) -> Recording:
    return load(request.param)


def test_teacher_forcing(recording):
    seen = {}

    def watch(module: nn.Module, name: str) -> None:
        module.register_forward_pre_hook(lambda _, inputs: seen.update({name: inputs[0]}))

    encoder, decoder = recording.model.image_encoder, recording.model.decoder
    watch(encoder.layers[0], "out/encoder_in")
    watch(decoder.layers[0], "out/decoder_in")
    watch(decoder.word_head, "out/decoded")
    output, _ = recording.losses()
    real_patches, real_words = output.encoded.memory_mask, output.packing.mask
    encoder_in, encoded = seen["out/encoder_in"], output.encoded.memory
    if recording.system == "CAMANet":  # the foreground is a row before the patches
        torch.testing.assert_close(encoder_in, recording["out/patch_embed"], **TENSOR)
        torch.testing.assert_close(output.encoded.foreground, recording["out/encoded"][:, 0], **TENSOR)
        torch.testing.assert_close(encoded, recording["out/encoded"][:, 1:], **TENSOR)
    else:
        torch.testing.assert_close(encoder_in[real_patches], recording["out/encoder_in"][real_patches], **TENSOR)
        torch.testing.assert_close(encoded[real_patches], recording["out/encoded"][real_patches], **TENSOR)
    decoder_in = recording["out/decoder_in" if recording.has("out/decoder_in") else "out/target_embed"]
    torch.testing.assert_close(seen["out/decoder_in"], decoder_in[real_words], **TENSOR)
    torch.testing.assert_close(seen["out/decoded"], recording["out/decoded"][real_words], **TENSOR)
    torch.testing.assert_close(output.packed_logits, recording["out/logits"][real_words], **TENSOR)


def test_responses_of_the_shared_memory(recording):
    if not recording.has("out/image_response"):
        pytest.skip(f"{recording.system} has no shared memory")
    output, _ = recording.losses()
    shared = output.encoded.shared_memory
    torch.testing.assert_close(shared.patch_response, recording["out/image_response"], **TENSOR)
    torch.testing.assert_close(shared.word_response, recording["out/text_response"], **TENSOR)
    if recording.system == "XProNet":
        torch.testing.assert_close(shared.module.memory_rows(), recording["out/prototypes"], **TENSOR)


def test_relational_memory(recording):
    if not recording.has("out/memory_states"):
        pytest.skip("no relational memory in this recording")
    seen = {}
    decoder, norm = recording.model.decoder, recording.model.decoder.layers[0].self_attention.norm
    watched = {
        "memory_states": decoder.relational_memory, "first_delta_gamma": norm.weight_change,
        "first_delta_beta": norm.bias_change, "first_norm": norm,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
    real = recording.losses()[0].packing.mask
    torch.testing.assert_close(seen["memory_states"], recording["out/memory_states"], **TENSOR)
    for name in list(watched)[1:]:
        if recording.has(f"out/{name}"):
            torch.testing.assert_close(seen[name], recording[f"out/{name}"][real], **TENSOR)


def test_losses_and_gradients(recording):
    recording.model.zero_grad()
    features = recording.model.patch_encoder.features
    features.grad = None
    output, losses = recording.losses(query_is_first_patch=recording.system == "CAMANet")
    assert losses.terms["report"].item() == pytest.approx(recording["loss/ce"].item(), abs=1e-5)
    total = losses.total + (published_contrast(recording, output) if recording.system == "XProNet" else 0)
    assert total.item() == pytest.approx(recording["loss/total"].item(), abs=1e-5)
    total.backward()
    check_gradients(recording, recording["grad/norms"])
    recorded = recording["grad/feature_maps" if recording.has("grad/feature_maps") else "grad/patch_feats"]
    torch.testing.assert_close(features.grad, recorded, **TENSOR)


def published_contrast(recording: Recording, output: SGRRGOutput) -> Tensor:
    """XProNet's contrast with its defects: padding counts, and a study without label repels itself."""
    shared, labels = output.encoded.shared_memory, recording["in/labels"].bool()
    with_itself = 0.6 * (~labels.any(1)).sum() / len(labels) ** 2
    total = 0.0
    for name, response in (("img", shared.patch_response), ("txt", shared.word_response)):
        found = response_contrast(response.mean(1), labels, torch.ones(len(labels), dtype=torch.bool)) + with_itself
        assert found.item() == pytest.approx(recording[f"loss/{name}_con"].item(), abs=1e-5)
        total = total + recording.numbers[f"weight_{name}_con_loss"] * found
    return total


def check_gradients(recording: Recording, norms: Tensor) -> None:
    """Compare the norm of each parameter's gradient with the recorded one."""
    expected = dict(zip(recording.grad_names, norms.tolist(), strict=True))
    names = recording.official_names()
    assert set(names.values()) == set(expected) - recording.unused_names()
    for name, parameter in recording.model.named_parameters():
        if name not in names:
            continue
        norm = 0.0 if parameter.grad is None else parameter.grad.double().norm().item()
        assert norm == pytest.approx(expected[names[name]], rel=1e-3, abs=1e-6), name


@pytest.fixture
def camanet(recording) -> Recording:
    if recording.system != "CAMANet":
        pytest.skip(f"{recording.system} has no discriminative map")
    return recording


def test_discriminative_map(camanet):
    seen = {}
    model = camanet.model
    model.image_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(rows=args, foreground=args[-1]), with_kwargs=True
    )
    output, losses = camanet.losses()
    encoded = output.encoded
    torch.testing.assert_close(encoded.observation_logits, camanet["out/cls_logits"], **TENSOR)
    torch.testing.assert_close(encoded.discriminative_map, camanet["out/fore_map"], **TENSOR)
    torch.testing.assert_close(seen["foreground"], camanet["out/fore_rep"], **TENSOR)
    rows = torch.cat([seen["foreground"], seen["rows"][0]], 1)
    torch.testing.assert_close(rows, camanet["out/encoder_rows_in"], **TENSOR)
    torch.testing.assert_close(output.words, camanet["out/target_embed"], **TENSOR)
    assert losses.terms["observations"].item() == pytest.approx(camanet["loss/cls"].item(), abs=1e-5)
    assert not encoded.discriminative_map.requires_grad


@pytest.mark.parametrize("published", [True, False])
def test_attention_consistency(camanet, published):
    """With the published query, the first patch, and with the foreground row, as the paper means it."""
    camanet.model.zero_grad()
    output, losses = camanet.losses(query_is_first_patch=published)
    encoded, real = output.encoded, output.packing.mask
    layer = int(camanet.numbers["layer_id"])
    recorded = camanet[f"out/cross_attn_{layer}"].mean(1)
    torch.testing.assert_close(output.image_attention[real], recorded[real], **TENSOR)
    aggregated = discriminative_map.aggregate_attention(
        output.words, real, encoded.foreground, output.image_attention, encoded.memory_mask,
        camanet.config.loss.consistency_words,
    )
    arrays, name = ("out", "loss") if published else ("fixed", "fixed")
    torch.testing.assert_close(aggregated, camanet[f"{arrays}/total_attn"], **TENSOR)
    mse = losses.terms["attention_consistency"]
    assert mse.item() == pytest.approx(camanet[f"{name}/mse"].item(), abs=1e-5)
    assert losses.total.item() == pytest.approx(camanet[f"{name}/total"].item(), abs=1e-5)
    (mse if published else losses.total).backward()
    check_gradients(camanet, camanet["grad/norms_mse_only" if published else "fixed/grad_norms"])


def test_greedy_decoding(recording):
    logits, step = [], recording.model.decoder.step

    def watched_step(*arguments) -> Tensor:
        logits.append(step(*arguments))
        return logits[-1]

    with mock.patch.object(recording.model.decoder, "step", watched_step):
        greedy = recording.generate(beams=1)
    torch.testing.assert_close(greedy.token_ids, recording["gen/greedy_ids"])
    log_probs = torch.stack(logits, 1).log_softmax(-1)  # [B, steps, W]
    for study, ids in enumerate(greedy.token_ids.tolist()):
        steps = ids.index(0) + 1 if 0 in ids else len(ids)  # what follows the end has no meaning
        torch.testing.assert_close(log_probs[study, :steps], recording["gen/greedy_logp"][study, :steps], **TENSOR)


def test_beam_search(recording):
    """The recorded search, in which finished hypotheses take places, over the model's logits; ours is never worse."""
    best = recording.generate(beams=3)
    recorded_ids, recorded_scores = recording["gen/beam3_textbook_ids"], recording["gen/beam3_textbook_score"]
    for study, recorded in enumerate(recorded_ids.tolist()):
        found = competing_search(uncached_logits(recording, best.encoded, study), 3, len(recorded), 0, set())
        assert found[0] + [0] * (len(recorded) - len(found[0])) == recorded
        assert score_of(found) == pytest.approx(recorded_scores[study].item(), abs=1e-4)
        assert best.scores[study] >= recorded_scores[study] - 1e-4
        if best.scores[study] <= recorded_scores[study] + 1e-4:
            assert best.token_ids[study].tolist() == recorded


def uncached_logits(recording: Recording, encoded, study: int):
    """Next-token logits of `study` after a list of tokens, recomputed from the start."""
    one = slice(study, study + 1)
    shared = encoded.shared_memory
    if shared is not None and shared.allowed is not None:
        shared = replace(shared, allowed=shared.allowed[one])

    def logits(tokens: list[int]) -> Tensor:
        ids = torch.tensor([[0, *tokens]])
        packing = Packing.from_mask(torch.ones_like(ids, dtype=torch.bool))
        with torch.inference_mode():
            memory = (encoded.memory[one], encoded.memory_mask[one])
            return recording.model.decoder(ids, packing, *memory, None, shared)[-1]

    return logits


def test_endless_beam_search(recording):
    bias = recording.model.decoder.word_head.bias
    kept = bias[0].item()
    try:
        bias.data[0] = -60.0
        torch.testing.assert_close(recording.generate(beams=3).token_ids, recording["gen/beam3_noeos_ids"])
    finally:
        bias.data[0] = kept
