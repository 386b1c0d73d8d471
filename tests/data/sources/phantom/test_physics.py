"""The simulated images of phantom chests."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.sources.phantom.findings import FINDING_KINDS, SEVERITIES, SIDES, Finding, regions_of
from data.sources.phantom.patient import Pose
from data.sources.phantom.physics import SimulatedView, simulate
from tests.support.sources.phantoms import SIZE, draw_finding_of, healthy, patient

EVERY_KIND = pytest.mark.parametrize("kind", FINDING_KINDS)


def crop(view: SimulatedView, region: str) -> np.ndarray:
    x1, y1, x2, y2 = (int(round(corner * len(view.image))) for corner in view.boxes[region])
    return view.image[y1:y2, x1:x2]


def test_lungs_are_darker_than_heart_and_abdomen():
    for number in range(8):
        lung, heart, abdomen = (
            crop(healthy(number), region).mean() for region in ("left mid lung zone", "cardiac silhouette", "abdomen"))
        assert lung + 15 < min(heart, abdomen)


def test_beside_the_patient_the_picture_is_black():
    centred = replace(patient(3), pose=Pose(0.0, 0.0, 0.0, 0.8, (0.0, 0.0)))
    image = simulate(centred, [], SIZE, 0).image
    assert image[-8:, :2].max() < 25 and image[-8:, -2:].max() < 25
    assert image[-8:, SIZE // 2].min() > 100


def test_pictures_repeat_and_differ_by_noise_seed():
    first, again = (simulate(patient(5), [], SIZE, 1).image for _ in range(2))
    other = simulate(patient(5), [], SIZE, 2).image
    assert (first == again).all()
    assert 0 < np.abs(first.astype(int) - other).mean() < 8


@EVERY_KIND
def test_a_finding_changes_the_picture_in_its_regions(kind):
    inside = []
    for number in range(5):
        finding = draw_finding_of(kind, np.random.default_rng(number))
        with_it = simulate(patient(number), [finding], SIZE, noise_seed=number)
        energy = (with_it.image.astype(float) - healthy(number).image) ** 2
        mask = np.zeros_like(energy, dtype=bool)
        for region in regions_of(finding):
            if with_it.boxes[region]:
                x1, y1, x2, y2 = np.array(with_it.boxes[region]) * SIZE
                mask[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
        assert energy.sum() > 0
        inside.append(energy[mask].sum() / energy.sum())
    assert min(inside) >= 0.80, inside


@pytest.mark.parametrize("side", SIDES)
def test_a_finding_is_on_its_side(side):
    finding = Finding("pleural effusion", side, severity="severe")
    change = np.abs(simulate(patient(6), [finding], SIZE, 6).image.astype(int) - healthy(6).image)
    middle = int(SIZE * sum(healthy(6).boxes["spine"][::2]) / 2)
    left_of_image, right_of_image = change[:, :middle].sum(), change[:, middle:].sum()
    assert (right_of_image > 5 * left_of_image) == (side == "left")


def test_more_severe_findings_change_more():
    for kind, form in FINDING_KINDS.items():
        if form.graded:
            changes = []
            for severity in SEVERITIES:
                finding = Finding(kind, form.sides[0] if form.sides else None, "mid" if form.places else None, severity)
                change = [simulate(patient(n), [finding], SIZE, n).image.astype(float) - healthy(n).image
                          for n in range(3)]
                changes.append(np.square(change).mean())
            assert changes == sorted(changes), kind


def test_a_lateral_picture_shows_findings_too():
    finding = Finding("pleural effusion", "left", severity="severe")
    with_it, without = (simulate(patient(8), findings, SIZE, 8, lateral=True) for findings in ([finding], []))
    assert with_it.boxes == {} and with_it.image.shape == (SIZE, SIZE)
    assert np.abs(with_it.image.astype(int) - without.image).max() > 20


def features(view: SimulatedView, region: str) -> np.ndarray:
    """Brightness of the cells of the region's box, and its strongest blobs of several sizes."""
    image = view.image.astype(np.float32) / 255
    size = len(image)
    x1, y1, x2, y2 = (int(round(corner * size)) for corner in view.boxes[region])
    x1, y1 = min(x1, size - 8), min(y1, size - 8)
    window = slice(y1, max(y2, y1 + 8)), slice(x1, max(x2, x1 + 8))

    def cells(values: np.ndarray, number: int, summary) -> list[float]:
        rows = np.array_split(values, number, 0)
        return [summary(cell) for row in rows for cell in np.array_split(row, number, 1)]

    brightness = cells(image[window], 5, np.mean)
    numbers = [*brightness, *(np.sort(brightness) - np.median(brightness))]
    smooth = ndimage.gaussian_filter(image, 0.005 * size)
    for width in (0.009, 0.016, 0.03, 0.05, 0.085):
        smoother = ndimage.gaussian_filter(image, width * size)
        band = (smooth - smoother)[window]
        numbers += [band.max(), band.min(), band.std(), *cells(band, 2, np.max)]
        smooth = smoother
    for width in (0.016, 0.03):
        # Roundness tells a nodule from a rib.
        down, across = np.gradient(ndimage.gaussian_filter(image, width * size))
        mixed, second_across = np.gradient(across)
        second_down = np.gradient(down)[0]
        round_peak = np.where(second_across < 0, second_across * second_down - mixed**2, 0)
        round_peak = np.sqrt(np.maximum(round_peak, 0))[window]
        numbers += [round_peak.max(), *cells(round_peak, 2, np.max)]
    return np.array(numbers)


@EVERY_KIND
def test_a_small_classifier_finds_every_kind(kind):
    rng = np.random.default_rng(3)
    studies, labels, trained = [], [], 70
    for number in range(50):
        finding = draw_finding_of(kind, rng)
        studies += [(healthy(number), finding), (simulate(patient(500 + number), [finding], SIZE, number), finding)]
        labels += [0, 1]
    rows = [features(view, next(r for r in regions_of(finding) if view.boxes[r])) for view, finding in studies]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    classifier.fit(rows[:trained], labels[:trained])
    assert roc_auc_score(labels[trained:], classifier.decision_function(rows[trained:])) >= 0.8
