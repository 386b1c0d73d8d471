"""The norm of the R2Gen family."""

import torch

from models.layers.norms import StandardDeviationNorm


def test_norm_divides_by_the_unbiased_deviation_plus_epsilon():
    rows = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    norm = StandardDeviationNorm(8)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    centred = rows - rows.mean(-1, keepdim=True)
    deviation = (centred.square().sum(-1, keepdim=True) / 7).sqrt()
    torch.testing.assert_close(norm(rows), norm.weight * centred / (deviation + 1e-6) + norm.bias)
    plain = StandardDeviationNorm(8, elementwise_affine=False)
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(rows), centred / (deviation + 1e-6))


def test_constant_row_gives_the_bias_and_finite_gradients():
    rows, norm = torch.zeros(2, 8, requires_grad=True), StandardDeviationNorm(8)
    norm(rows).square().sum().backward()
    assert torch.equal(norm(rows), norm.bias.expand(2, 8))
    assert torch.isfinite(rows.grad).all() and torch.isfinite(norm.weight.grad).all()


def test_half_precision_rows_are_normed_in_fp32():
    rows = torch.randn(2, 8).half() * 1e-4
    found = StandardDeviationNorm(8)(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, StandardDeviationNorm(8)(rows.float()))
