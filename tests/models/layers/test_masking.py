"""Masked means."""

import torch

from models.layers.masking import masked_mean


def test_mean_of_the_kept_rows():
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [[2.0, 3.0], [0.0, 0.0]]
