"""The relational memory, conditional norms, and the decoding state that is reordered with its hypotheses."""

import pytest
import torch

from models.family.relational_memory import ConditionalNorm, RelationalMemory
from models.layers.norms import StandardDeviationNorm
from modules import builders
from tests.support.tiny_model import tiny_batch, tiny_config, tiny_model, tiny_vocabularies

WIDTH, SLOTS = 8, 3


@pytest.fixture
def memory() -> RelationalMemory:
    torch.manual_seed(0)
    return RelationalMemory(WIDTH, SLOTS, heads=2)


def words(length: int = 5) -> torch.Tensor:
    return torch.randn(2, length, WIDTH, generator=torch.Generator().manual_seed(1))


def test_one_word_advances_the_memory_by_the_formula(memory):
    x = words(1)
    before = torch.eye(SLOTS, WIDTH).expand(2, -1, -1)
    new = before + memory.attention(before, torch.cat([before, x], 1))
    new = new + memory.transform(new)
    gates = torch.sigmoid(memory.word_gates(x) + memory.memory_gates(before.tanh()))
    expected = gates[..., :WIDTH] * new.tanh() + gates[..., WIDTH:] * before
    torch.testing.assert_close(memory(x)[:, 0], expected.flatten(1))


def test_words_one_by_one_equal_all_at_once(memory):
    x = words()
    state = memory.initial(x[:, 0])
    for position, expected in enumerate(memory(x).unbind(1)):
        state = memory.step(state, x[:, position])
        torch.testing.assert_close(state.flatten(1), expected)


def test_later_words_do_not_change_the_memory_after_earlier_ones(memory):
    x, changed = words(), words()
    changed[:, 3:] += 1
    torch.testing.assert_close(memory(x)[:, :3], memory(changed)[:, :3])
    assert not torch.allclose(memory(x)[:, 3], memory(changed)[:, 3])


def test_the_memory_starts_with_unit_vectors_cut_to_the_width():
    narrow = RelationalMemory(2, slots=3, heads=1)
    assert torch.equal(narrow.initial(torch.zeros(1, 2))[0], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("norm", [torch.nn.LayerNorm, StandardDeviationNorm])
def test_condition_changes_scale_and_shift(norm):
    torch.manual_seed(0)
    made, rows, condition = ConditionalNorm(WIDTH, 6, norm), torch.randn(4, WIDTH), torch.randn(4, 6)
    plain = norm(WIDTH, elementwise_affine=False)(rows)
    expected = (1 + made.weight_change(condition)) * plain + made.bias_change(condition)
    torch.testing.assert_close(made(rows, condition), expected)


def test_every_norm_of_the_layers_is_conditional_and_the_last_is_not():
    model = tiny_model("model.decoder.norms=memory", "model.decoder.memory_heads=2", "model.graph_in=both")
    for layer in model.decoder.layers:
        norms = (layer.self_attention.norm, layer.image_norm, layer.graph_attention.norm, layer.feed_forward.norm)
        assert all(isinstance(norm, ConditionalNorm) for norm in norms)
    assert isinstance(model.decoder.norm, torch.nn.LayerNorm)
    assert not any(isinstance(part, ConditionalNorm) for part in model.image_encoder.modules())


def test_conditional_norms_start_as_published():
    settings = ("model.decoder.norms=memory", "model.decoder.memory_heads=2", "model.graph_in=none",
                "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none")
    model = builders.build_model(tiny_config(*settings), tiny_vocabularies())
    norm = model.decoder.layers[0].image_norm
    assert (norm.weight == 1).all() and (norm.bias == 0).all()
    assert all((mlp[index].bias == 0.1).all() for mlp in (norm.weight_change, norm.bias_change) for index in (0, 2))


def test_reordered_hypotheses_take_their_memory_along():
    model = tiny_model("model.decoder.norms=memory", "model.decoder.memory_heads=2", "model.graph_in=none").eval()
    decoder, studies = model.decoder, len(tiny_batch(2))
    patches = torch.randn(studies, 4, 16)
    state = decoder.start(patches, torch.ones(studies, 4, dtype=torch.bool), None, beams=3, longest=4)
    decoder.step(torch.arange(6), state)
    before = state.report_memory.clone()
    assert before.shape == (2, 3, 3, 16) and not torch.allclose(before[0, 0], before[0, 1])
    state.reorder(torch.tensor([2, 0, 0, 3, 5, 4]))
    assert torch.equal(state.report_memory[0], before[0, [2, 0, 0]])
    assert torch.equal(state.report_memory[1], before[1, [0, 2, 1]])
