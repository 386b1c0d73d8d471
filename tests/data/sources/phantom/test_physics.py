"""The phantom's bodies, findings, projection and boxes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.ontology import Anatomy
from data.sources.phantom.anatomy import (
    ENLARGED_CARDIOTHORACIC_RATIO,
    NORMAL_CARDIOTHORACIC_RATIO,
    Chest,
    Ellipsoid,
    Patient,
    Pose,
    depth_magnification,
    draw_patient,
    tube,
)
from data.sources.phantom.dataset import draw_findings
from data.sources.phantom.findings import FINDING_KINDS, SEVERITIES, SIDES, Finding, regions_of
from data.sources.phantom.pathology import EFFECTS, chest_with
from data.sources.phantom.physics import Picture, Projection, add_solid, add_tubes, region_boxes, simulate

SIZE = 64
EVERY_KIND = pytest.mark.parametrize("kind", FINDING_KINDS)


@cache
def patient(number: int) -> Patient:
    return draw_patient(np.random.default_rng([7, number]))


def finding_of(kind: str, rng: np.random.Generator) -> Finding:
    form = FINDING_KINDS[kind]
    return Finding(
        kind,
        str(rng.choice(form.sides)) if form.sides else None,
        str(rng.choice(form.places)) if form.places else None,
        str(rng.choice(SEVERITIES)) if form.graded else None,
    )


@cache
def healthy(number: int, size: int = SIZE) -> Picture:
    return simulate(patient(number), [], size, noise_seed=number)


@cache
def geometry() -> list[dict]:
    """The boxes of 300 studies with findings, without their pictures."""
    boxes = []
    for number in range(300):
        rng = np.random.default_rng([11, number])
        someone = draw_patient(rng)
        chest = chest_with(someone, draw_findings(rng, someone.view))
        boxes.append(region_boxes(chest, Projection(chest, 8)))
    return boxes


def box_array() -> np.ndarray:
    """[300, 29, 4] boxes of `geometry`, NaN where a region has none."""
    names = Anatomy.load().names
    return np.array([[boxes[name] or [np.nan] * 4 for name in names] for boxes in geometry()], dtype=float)


# Projection


def test_an_ellipsoid_absorbs_by_its_chord():
    chest = Chest(patient(0))
    projection = Projection(chest, 101)
    ball = Ellipsoid((3.0, 10.0, 0.0), (4.0, 4.0, 4.0), attenuation=0.5)
    total = np.zeros((101, 101), dtype=np.float32)
    add_solid(ball, projection, total)
    column, row = projection.project(np.array(ball.centre)).astype(int)
    assert total[row, column] == pytest.approx(0.5 * 8.0, rel=0.01)
    half_way = projection.project(np.array(ball.centre) + [2.0, 0.0, 0.0]).astype(int)
    assert total[half_way[1], half_way[0]] == pytest.approx(0.5 * 2 * 12**0.5, rel=0.05)


@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (0.6, 0.8, 0.0), (0.3, 0.4, 0.866)])
def test_a_tube_loses_no_mass(direction):
    chest = Chest(patient(1))
    projection = Projection(chest, 200)
    middle = np.array([0.0, 12.0, 0.0])
    ends = [middle - 5 * np.array(direction), middle + 5 * np.array(direction)]
    total = np.zeros((200, 200), dtype=np.float32)
    add_tubes([tube(ends, 0.7, 0.3)], projection, np.zeros_like(total), total)
    area_of_pixel = (1 / (projection.pixels_per_cm * projection.magnification(0.0))) ** 2
    assert total.sum() * area_of_pixel == pytest.approx(0.3 * np.pi * 0.7**2 * 10, rel=0.03)


@pytest.mark.parametrize("lateral", [False, True])
def test_pixels_show_the_points_that_project_onto_them(lateral):
    projection = Projection(Chest(patient(2)), 64, lateral)
    point = np.array([3.0, 9.0, -2.0])
    column, row = projection.project(point) - 0.5
    across, down = projection.plane(point[projection.beam])
    place = [np.round(row).astype(int), np.round(column).astype(int)]
    pixel = 1 / projection.pixels_per_cm
    assert across[*place] == pytest.approx(point[projection.across], abs=pixel)
    assert down[*place] == pytest.approx(point[1], abs=pixel)


def test_the_heart_is_magnified_from_ap_more_than_from_pa():
    heart, ribs = 2.0, -6.0
    assert depth_magnification("AP", heart) > depth_magnification("AP", ribs) > 1
    assert 1 < depth_magnification("PA", heart) < depth_magnification("PA", ribs)
    assert depth_magnification("AP", heart) > depth_magnification("PA", heart) + 0.05


def test_lungs_are_darker_than_heart_and_abdomen():
    for number in range(8):
        lung, heart, abdomen = (
            crop(healthy(number), region).mean() for region in ("left mid lung zone", "cardiac silhouette", "abdomen"))
        assert lung + 15 < min(heart, abdomen)


def test_beside_the_patient_the_picture_is_black():
    someone = replace(patient(3), pose=Pose(0.0, 0.0, 0.0, 0.8, (0.0, 0.0)))
    image = simulate(someone, [], SIZE, 0).image
    assert image[-8:, :2].max() < 25 and image[-8:, -2:].max() < 25
    assert image[-8:, SIZE // 2].min() > 100


# Boxes


def crop(picture: Picture, region: str) -> np.ndarray:
    x1, y1, x2, y2 = (int(round(corner * len(picture.image))) for corner in picture.boxes[region])
    return picture.image[y1:y2, x1:x2]


def test_every_region_has_a_box_inside_the_picture():
    boxes = box_array()
    assert set(geometry()[0]) == set(Anatomy.load().names)
    known = ~np.isnan(boxes[..., 0])
    assert known.mean() > 0.99
    found = boxes[known]
    assert found.min() >= 0 and found.max() <= 1
    assert (found[:, :2] < found[:, 2:]).all()


def test_a_region_outside_the_picture_has_no_box():
    chest = Chest(replace(patient(3), pose=Pose(0.0, 0.0, 0.0, 1.1, (0.45, 0.0))))
    boxes = region_boxes(chest, Projection(chest, 8))
    assert boxes["left costophrenic angle"] is None
    assert boxes["right lung"] is not None


def test_centres_of_all_regions_vary_by_three_percent_in_both_directions():
    boxes = box_array()
    deviation = np.nanstd((boxes[..., :2] + boxes[..., 2:]) / 2, axis=0)
    assert deviation.min() >= 0.03


def test_mean_boxes_are_a_poor_guess():
    boxes = box_array()
    mean = np.nanmean(boxes[:200], axis=0)
    rest = boxes[200:]
    overlap = np.clip(np.minimum(rest[..., 2:], mean[:, 2:]) - np.maximum(rest[..., :2], mean[:, :2]), 0, None).prod(-1)
    union = (rest[..., 2:] - rest[..., :2]).prod(-1) + (mean[:, 2:] - mean[:, :2]).prod(-1) - overlap
    assert np.nanmean(overlap / union) <= 0.52


def test_left_is_the_patients_left():
    for name in ("lung", "hilar structures", "costophrenic angle", "clavicle"):
        left, right = (healthy(4).boxes[f"{side} {name}"] for side in SIDES)
        assert left[0] + left[2] > right[0] + right[2]


# Heart size


def test_cardiothoracic_ratio_agrees_with_label_and_picture():
    ratios = []
    for number in range(60):
        findings = [Finding("cardiomegaly", severity=SEVERITIES[number % 3])] if number % 2 else []
        chest = chest_with(patient(number), findings)
        low, high = ENLARGED_CARDIOTHORACIC_RATIO[SEVERITIES[number % 3]] if findings else NORMAL_CARDIOTHORACIC_RATIO
        assert low <= chest.cardiothoracic_ratio <= high
        edges = np.concatenate([part.outline() for part in chest.heart])
        heart = np.ptp(edges[:, 0]) * depth_magnification(chest.patient.view, edges[0, 2])
        cage = 2 * chest.patient.half_width * depth_magnification(chest.patient.view, 0.0)
        assert heart / cage == pytest.approx(chest.cardiothoracic_ratio, abs=0.005)
        ratios.append(chest.cardiothoracic_ratio)
    assert min(ratios) < 0.42 and max(ratios) > 0.62


# Findings


def test_every_kind_has_an_effect():
    assert set(EFFECTS) == set(FINDING_KINDS)
    with pytest.raises(ValueError, match="no physics for the finding 'gout'"):
        chest_with(patient(0), [Finding("gout")])


def test_pictures_repeat_and_differ_by_noise_seed():
    first, again = (simulate(patient(5), [], SIZE, 1).image for _ in range(2))
    other = simulate(patient(5), [], SIZE, 2).image
    assert (first == again).all()
    assert 0 < np.abs(first.astype(int) - other).mean() < 8


@EVERY_KIND
def test_a_finding_changes_the_picture_in_its_regions(kind):
    inside = []
    for number in range(5):
        finding = finding_of(kind, np.random.default_rng(number))
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


def features(picture: Picture, region: str) -> np.ndarray:
    """Brightness in the cells of the region's box, and the strongest blobs of several sizes there."""
    image = picture.image.astype(np.float32) / 255
    size = len(image)
    x1, y1, x2, y2 = (int(round(corner * size)) for corner in picture.boxes[region])
    x1, y1 = min(x1, size - 8), min(y1, size - 8)
    window = slice(y1, max(y2, y1 + 8)), slice(x1, max(x2, x1 + 8))

    def cells(values: np.ndarray, number: int, summary) -> list[float]:
        rows = np.array_split(values, number, 0)
        return [summary(cell) for row in rows for cell in np.array_split(row, number, 1)]

    brightness = cells(image[window], 5, np.mean)
    found = [*brightness, *(np.sort(brightness) - np.median(brightness))]
    smooth = ndimage.gaussian_filter(image, 0.005 * size)
    for width in (0.009, 0.016, 0.03, 0.05, 0.085):
        smoother = ndimage.gaussian_filter(image, width * size)
        band = (smooth - smoother)[window]
        found += [band.max(), band.min(), band.std(), *cells(band, 2, np.max)]
        smooth = smoother
    for width in (0.016, 0.03):
        # Roundness, which a nodule has and a rib has not.
        down, across = np.gradient(ndimage.gaussian_filter(image, width * size))
        mixed, second_across = np.gradient(across)
        second_down = np.gradient(down)[0]
        round_peak = np.where(second_across < 0, second_across * second_down - mixed**2, 0)
        round_peak = np.sqrt(np.maximum(round_peak, 0))[window]
        found += [round_peak.max(), *cells(round_peak, 2, np.max)]
    return np.array(found)


@EVERY_KIND
def test_a_small_classifier_finds_every_kind(kind):
    rng = np.random.default_rng(3)
    studies, labels, trained = [], [], 100
    for number in range(70):
        finding = finding_of(kind, rng)
        studies += [(healthy(number), finding), (simulate(patient(500 + number), [finding], SIZE, number), finding)]
        labels += [0, 1]
    rows = [features(picture, next(r for r in regions_of(finding) if picture.boxes[r])) for picture, finding in studies]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    classifier.fit(rows[:trained], labels[:trained])
    assert roc_auc_score(labels[trained:], classifier.decision_function(rows[trained:])) >= 0.8
