"""Collating samples into batches."""

import torch

from data.batch import RegionAnnotation, Sample
from data.collate import collate
from data.images.network_input import to_network_input


def random_image(side, generator):
    return torch.randint(0, 256, (side, side), generator=generator, dtype=torch.uint8)


def make_sample(name, views, tokens, side=8, **augmentation):
    """A sample with `views` images and the ids `tokens`; its values depend on the length of `name`."""
    generator = torch.Generator().manual_seed(len(name))
    regions = RegionAnnotation(
        boxes=torch.rand(29, 4, generator=generator),
        visible=torch.rand(29, generator=generator) > 0.5,
        mentioned=torch.rand(29, generator=generator) > 0.5,
        abnormal=torch.rand(29, generator=generator) > 0.5,
        attributes=torch.rand(29, 3, generator=generator) > 0.5,
        graph_known=torch.tensor(True),
        boxes_known=torch.tensor(len(name) > 1),
    )
    return Sample(
        study_id=name, images=[random_image(side, generator) for _ in range(views)], frontal=len(name) > 1,
        regions=regions,
        observations=torch.ones(14), observations_known=torch.zeros(14, dtype=torch.bool),
        token_ids=torch.tensor(tokens), reference=f"{name} .", detector_boxes=torch.rand(29, 4, generator=generator),
        detector_visible=torch.ones(29, dtype=torch.bool), **augmentation,
    )


def test_every_field_gains_a_batch_axis():
    samples = [make_sample("a", 1, [7, 1, 8]), make_sample("bb", 2, [7, 1, 2, 3, 8])]
    batch = collate(samples, pad_id=0)
    assert len(batch) == 2 and batch.study_ids == ["a", "bb"] and batch.references == ["a .", "bb ."]
    for index, one in enumerate(samples):
        for name, value in vars(one.regions).items():
            assert torch.equal(getattr(batch.regions, name)[index], value), name
        for name in ("observations", "observations_known", "detector_boxes", "detector_visible"):
            assert torch.equal(getattr(batch, name)[index], getattr(one, name)), name
    assert batch.frontal.tolist() == [False, True]
    assert batch.regions.boxes_known.shape == batch.regions.graph_known.shape == (2,)


def test_reports_are_padded_and_masked_by_length():
    batch = collate([make_sample("a", 1, [0, 5, 0]), make_sample("bb", 1, [0, 5, 6, 4, 0])], pad_id=0)
    assert batch.token_ids.tolist() == [[0, 5, 0, 0, 0], [0, 5, 6, 4, 0]]
    assert batch.token_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    batch = collate([make_sample("a", 1, [1, 2]), make_sample("bb", 1, [1, 5, 2])], pad_id=9)
    assert batch.token_ids[0].tolist() == [1, 2, 9]


def test_missing_views_are_zeros_and_masked():
    samples = [make_sample("a", 1, [1]), make_sample("bb", 2, [1])]
    batch = collate(samples, pad_id=0)
    assert batch.images.shape == (2, 2, 8, 8) and batch.images.dtype == torch.uint8
    assert batch.view_mask.tolist() == [[True, False], [True, True]]
    assert torch.equal(batch.images[0, 0], samples[0].images[0]) and (batch.images[0, 1] == 0).all()
    assert torch.equal(batch.images[1], torch.stack(samples[1].images))
    assert collate(samples[:1], pad_id=0).images.shape == (1, 1, 8, 8)


def test_images_of_different_sizes_are_padded_and_warped_as_on_their_own():
    """The padding changes no pixel of the network's input, not even at the border."""
    matrix = torch.tensor([[1.1, 0.2, 0.1], [-0.2, 1.1, -0.05]])
    samples = [
        make_sample("a", 1, [1], side=12, image_size=8, warps=matrix[None]),
        make_sample("bb", 2, [1], side=9, image_size=8, warps=torch.stack([matrix, -matrix])),
    ]
    joint = collate(samples, pad_id=0)
    assert joint.images.shape == (2, 2, 12, 12) and joint.warps.shape == (2, 2, 2, 3)
    together = to_network_input(joint)
    for index, sample in enumerate(samples):
        alone = to_network_input(collate([sample], pad_id=0))
        assert alone.images.shape == (1, index + 1, 3, 8, 8)
        torch.testing.assert_close(together.images[index, : index + 1], alone.images[0], atol=1e-5, rtol=1e-5)
    assert (together.images[0, 1] == 0).all()
    assert together.warps is None and together.image_size is None
