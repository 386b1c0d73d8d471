"""Pre-norm transformer blocks."""

import torch
import torch.nn.functional as F

from models.layers.transformer import FeedForward, FeedForwardBlock, SelfAttentionBlock


def test_feed_forward_is_two_layers_around_exact_gelu():
    torch.manual_seed(0)
    layer, rows = FeedForward(6, 10), torch.randn(3, 4, 6)
    hidden = rows @ layer.expand.weight.T + layer.expand.bias
    activated = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(layer(rows), activated @ layer.contract.weight.T + layer.contract.bias)


def test_blocks_add_a_function_of_the_normed_rows():
    torch.manual_seed(0)
    rows = torch.randn(2, 5, 8)
    normed = F.layer_norm(rows, (8,))
    mask = torch.rand(2, 1, 5) < 0.6
    attention, feed_forward = SelfAttentionBlock(8, 2), FeedForwardBlock(8, 12)
    torch.testing.assert_close(attention(rows, mask), rows + attention.attention(normed, normed, mask))
    torch.testing.assert_close(
        attention(rows, causal=True), rows + attention.attention(normed, normed, None, causal=True)
    )
    torch.testing.assert_close(feed_forward(rows), rows + feed_forward.feed_forward(normed))


def test_row_that_sees_nothing_passes_self_attention_unchanged():
    torch.manual_seed(0)
    rows = torch.randn(2, 3, 8)
    mask = torch.tensor([[[True, True, True]], [[False, False, False]]])
    answer = SelfAttentionBlock(8, 2)(rows, mask)
    assert torch.equal(answer[1], rows[1]) and not torch.equal(answer[0], rows[0])


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    rows = torch.randn(2, 3, 8)
    for block in (SelfAttentionBlock(8, 2, dropout=0.5), FeedForwardBlock(8, 12, dropout=0.5)):
        assert not torch.equal(block(rows), block(rows))
        block.eval()
        assert torch.equal(block(rows), block(rows))
