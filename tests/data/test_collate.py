"""Collating samples into batches."""

import torch

from data.batch import RegionAnnotation, Sample
from data.collate import collate


def make_sample(name, views, tokens):
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
        study_id=name, images=torch.rand(views, 3, 8, 8, generator=generator), frontal=len(name) > 1, regions=regions,
        observations=torch.ones(14), observations_known=torch.zeros(14, dtype=torch.bool),
        token_ids=torch.tensor(tokens), reference=f"{name} .", detector_boxes=torch.rand(29, 4, generator=generator),
        detector_visible=torch.ones(29, dtype=torch.bool),
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
    assert batch.images.shape == (2, 2, 3, 8, 8)
    assert batch.view_mask.tolist() == [[True, False], [True, True]]
    assert torch.equal(batch.images[0, 0], samples[0].images[0]) and (batch.images[0, 1] == 0).all()
    assert torch.equal(batch.images[1], samples[1].images)
    assert collate(samples[:1], pad_id=0).images.shape == (1, 1, 3, 8, 8)
