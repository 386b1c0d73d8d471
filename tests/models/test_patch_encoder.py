"""Patches of several views."""

import torch
from torch import nn

from models.patch_encoder import PatchEncoder
from tests.support.tiny_model import CHANNELS, tiny_trunk


def test_patches_of_all_views_lie_row_by_row_and_view_by_view():
    torch.manual_seed(0)
    encoder, images = PatchEncoder(tiny_trunk(), CHANNELS), torch.randn(2, 2, 3, 32, 32)
    patches = encoder(images, torch.ones(2, 2, dtype=torch.bool))
    assert patches.tokens.shape == (2, 32, CHANNELS) and patches.mask.shape == (2, 32)
    for study in range(2):
        for view in range(2):
            grid = encoder.trunk(images[study, view].unsqueeze(0))[0]  # [C, 4, 4]
            for row, column in ((0, 0), (0, 3), (2, 1)):
                patch = patches.tokens[study, view * 16 + row * 4 + column]
                torch.testing.assert_close(patch, grid[:, row, column])
            if view == 0:
                torch.testing.assert_close(patches.frontal_grid[study], grid)
    assert patches.mask.all()


def test_patches_of_a_missing_view_are_masked():
    encoder = PatchEncoder(tiny_trunk(), CHANNELS)
    mask = torch.tensor([[True, False], [True, True]])
    patches = encoder(torch.randn(2, 2, 3, 32, 32), mask)
    assert torch.equal(patches.mask, mask.repeat_interleave(16, 1))


def test_missing_view_does_not_enter_the_statistics_of_batch_norm():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4))
    encoder, images = PatchEncoder(trunk, 4), torch.randn(3, 2, 3, 32, 32)
    mask = torch.tensor([[True, False], [True, True], [True, False]])
    patches = encoder(images, mask)
    images[~mask] = 1e3
    assert torch.equal(encoder(images, mask).tokens[patches.mask], patches.tokens[patches.mask])
    one_view = encoder(images[[0, 2], :1], mask[[0, 2], :1])
    assert torch.equal(encoder(images[[0, 2]], mask[[0, 2]]).tokens[:, :16], one_view.tokens)
