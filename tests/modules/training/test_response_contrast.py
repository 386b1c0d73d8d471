"""XProNet's contrast of the responses of two studies."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from modules.training.loss_terms import response_contrast
from tests.support.tiny_model import losses_of, teacher_forced, tiny_batch, tiny_config, tiny_model, without_annotation

SETTINGS = (
    "model.prototypes.per_observation=3", "model.prototypes.channels=12", "model.prototypes.heads=2",
    "model.prototypes.responding=4", "model.graph_in=none", "loss.image_contrast=1", "loss.text_contrast=0.1",
)


def test_contrast_by_hand():
    vectors = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()
    cosines = F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T
    expected = 0.0
    for i in range(4):
        for j in range(4):
            common = (labels[i] & labels[j]).sum()
            differing, both = (labels[i] ^ labels[j]).sum(), labels[i].sum() + labels[j].sum()
            if common:
                expected += max(0.0, 1.5 ** -float(differing / both) - float(cosines[i, j]))
            elif i != j:
                expected += max(0.0, float(cosines[i, j]) - 0.4)
    known = torch.ones(4, dtype=torch.bool)
    assert response_contrast(vectors, labels, known).item() == pytest.approx(expected / 16, abs=1e-6)
    # Studies whose observations are unknown are left out.
    first = response_contrast(vectors[:3], labels[:3], known[:3])
    torch.testing.assert_close(response_contrast(vectors, labels, torch.tensor([True, True, True, False])), first)


def test_terms_compare_mean_responses_without_padding():
    model, batch, config = tiny_model(*SETTINGS).eval(), tiny_batch(3, views=2), tiny_config(*SETTINGS)
    batch = replace(batch, view_mask=torch.tensor([[True, True], [True, False], [True, True]]))
    terms = losses_of(model, batch, config=config).terms
    output = teacher_forced(model, batch)
    shared, real = output.encoded.shared_memory, output.packing.mask
    patches, words = (
        torch.stack([response[study][mask[study]].mean(0) for study in range(3)])
        for response, mask in ((shared.patch_response, output.encoded.memory_mask), (shared.word_response, real))
    )
    labels, known = (batch.observations > 0) & batch.observations_known, batch.observations_known.any(1)
    torch.testing.assert_close(terms["image_contrast"], response_contrast(patches, labels, known))
    torch.testing.assert_close(terms["text_contrast"], response_contrast(words, labels, known))


def test_unknown_observations_give_an_exact_zero():
    terms = losses_of(tiny_model(*SETTINGS), without_annotation(tiny_batch(2)), config=tiny_config(*SETTINGS)).terms
    assert terms["image_contrast"] == 0 and terms["text_contrast"] == 0
    (terms["image_contrast"] + terms["text_contrast"]).backward()
