"""The region selector and its memory."""

import pytest
import torch
import torch.nn.functional as F

from models.region_selector import RegionMemory, RegionSelector


@pytest.fixture
def memory() -> RegionMemory:
    torch.manual_seed(0)
    made = RegionMemory(channels=8, slots=6, heads=2, top=2)
    torch.nn.init.normal_(made.slots)
    return made


def test_memory_is_read_head_by_head_from_its_best_slots(memory):
    feature = torch.randn(3, 8)
    projected = memory.project(memory.slots)
    expected = torch.zeros(3, 8)
    for study in range(3):
        for head in range(2):
            channels = slice(4 * head, 4 * head + 4)
            query = memory.query(feature)[study, channels]
            scores = memory.key(projected)[:, channels] @ query / 2.0
            best = scores.argsort(descending=True)[:2]
            weights = F.softmax(scores[best], 0)
            expected[study, channels] = weights @ memory.value(projected)[best][:, channels]
    torch.testing.assert_close(memory(feature), memory.output(expected))


def test_other_slots_are_not_read(memory):
    feature = torch.randn(1, 8)
    before = memory(feature)
    before.sum().backward()
    unread = (memory.slots.grad == 0).all(-1)
    assert 2 <= int(unread.sum()) <= 4  # each of the two heads reads 2 of the 6
    with torch.no_grad():
        memory.slots[unread] *= 0.99
    torch.testing.assert_close(memory(feature), before)
    with torch.no_grad():
        memory.slots[~unread] *= 0.99
    assert not torch.allclose(memory(feature), before)


def test_all_slots_count_where_top_is_all():
    torch.manual_seed(0)
    memory = RegionMemory(8, 6, 2, top=6)
    torch.nn.init.normal_(memory.slots)
    feature = torch.randn(3, 8)
    split = [layer.unflatten(-1, (2, 4)).transpose(-3, -2) for layer in
             (memory.query(feature).unsqueeze(1), memory.key(memory.project(memory.slots)),
              memory.value(memory.project(memory.slots)))]
    answers = F.scaled_dot_product_attention(split[0], split[1].expand(3, -1, -1, -1), split[2].expand(3, -1, -1, -1))
    torch.testing.assert_close(memory(feature), memory.output(answers.transpose(1, 2).flatten(1)))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError, match="8 channels are not a multiple of 3 memory heads"):
        RegionMemory(8, 6, 3, 2)
    with pytest.raises(AssertionError, match="the best 7 of 6 memory slots"):
        RegionMemory(8, 6, 2, 7)


def test_selector_joins_the_feature_and_the_answer_of_its_memory(memory):
    selector, mean_patch = RegionSelector(8, 29, memory=memory), torch.randn(3, 8)
    feature = selector.project(mean_patch)
    fused = F.gelu(selector.fuse(torch.cat([feature, memory(feature)], -1)))
    torch.testing.assert_close(selector(mean_patch), selector.head(fused))


def test_selector_without_memory_is_linear():
    torch.manual_seed(0)
    selector, mean_patch = RegionSelector(8, 29), torch.randn(3, 8)
    torch.testing.assert_close(selector(mean_patch), selector.head(selector.project(mean_patch)))
    assert selector(mean_patch).shape == (3, 29)
    assert not any(name.startswith(("memory", "fuse")) for name, _ in selector.named_parameters())
