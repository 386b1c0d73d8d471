"""From prepared studies to samples."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data.collate import collate
from data.dataset import StudyDataset
from data.errors import UserError
from data.images.network_input import IMAGENET_MEAN, IMAGENET_STD, to_network_input
from data.images.transforms import Augmentation
from data.text.sentence_regions import word_regions
from data.vocabulary_builder import build_vocabularies
from tests.support.tiny_dataset import write_tiny_dataset

SIDE = 32
STRONG = Augmentation(rotate=10, translate=0.05, scale=0.1, intensity=0.1)


@pytest.fixture
def dataset(tiny_root, vocabularies):
    """A function that creates the tiny data set's dataset with the given settings."""
    def make(split="train", root=tiny_root, **settings):
        defaults = dict(cleaning="corrected", image_size=SIDE, max_tokens=30, views=1, uncertain="positive")
        return StudyDataset(root, split, vocabularies, **(defaults | settings))
    return make


@pytest.fixture
def copied_root(tiny_root, tmp_path):
    """A copy of the tiny data set that the test may modify."""
    return shutil.copytree(tiny_root, tmp_path / "copy")


def rewrite(root, study_id, change):
    """Apply `change` to the record of one study."""
    path = root / "records.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in records:
        if record["id"] == study_id:
            change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def is_same(first, second):
    """Whether two samples are equal bit for bit."""
    tensors = [(getattr(first, name), getattr(second, name)) for name in
               ("observations", "observations_known", "token_ids", "detector_boxes", "detector_visible")]
    tensors += list(zip(vars(first.regions).values(), vars(second.regions).values(), strict=True))
    tensors += list(zip(first.images, second.images, strict=True))
    if first.warps is not None or second.warps is not None:
        tensors += [(first.warps, second.warps), (first.intensities, second.intensities)]
    return first.study_id == second.study_id and all(torch.equal(one, other) for one, other in tensors)


def seen(sample):
    """The images as the network sees them, [V, 3, H, H]."""
    return to_network_input(collate([sample], 0)).images[0]


def test_a_sample_holds_what_the_record_says(dataset, vocabularies, tiny_root):
    studies = dataset()
    sample, record = studies[0], studies.records[0]
    anatomy, attributes = vocabularies.anatomy, vocabularies.attributes
    assert sample.study_id == "train0" and sample.frontal is True
    assert [image.shape for image in sample.images] == [(SIDE, SIDE)] and sample.images[0].dtype == torch.uint8
    assert sample.regions.graph_known and sample.regions.boxes_known
    boxes_seen = 0
    for position, name in enumerate(anatomy.names):
        region = record["graph"]["regions"].get(name)
        box = region and region["box"]
        assert bool(sample.regions.visible[position]) == (box is not None)
        torch.testing.assert_close(sample.regions.boxes[position], torch.tensor(box or [0.0] * 4))
        assert bool(sample.regions.mentioned[position]) == bool(region and region["mentioned"])
        assert bool(sample.regions.abnormal[position]) == bool(region and region["abnormal"])
        slots = sample.regions.attributes[position].nonzero().flatten().tolist()
        named = [attributes.by_region[position][slot] for slot in slots]
        assert named == sorted(region["attributes"] if region else [])
        boxes_seen += box is not None
    assert 0 < boxes_seen < 29
    assert sample.regions.attributes.shape == (29, attributes.largest)
    assert sample.reference.endswith(" .") and sample.reference == sample.reference.lower()
    assert vocabularies.tokenizer.decode(sample.token_ids) == sample.reference
    with Image.open(tiny_root / record["images"][0]) as image:
        expected = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert (sample.images[0].numpy() == expected).all()
    assert sample.warps is None and sample.intensities is None and sample.image_size is None


def test_what_is_not_annotated_is_not_known(dataset):
    studies = dataset()
    without_graph, without_observations, without_boxes = studies[1], studies[2], studies[3]
    regions = without_graph.regions
    assert not regions.graph_known and not regions.boxes_known and without_graph.frontal
    assert not (regions.visible.any() or regions.mentioned.any() or regions.abnormal.any() or regions.attributes.any())
    assert not without_observations.observations_known.any() and not without_observations.observations.any()
    assert without_observations.regions.graph_known
    assert without_boxes.regions.graph_known and not without_boxes.regions.boxes_known
    assert without_boxes.regions.mentioned.any() and not without_boxes.regions.visible.any()
    assert (without_boxes.regions.boxes == 0).all()


def test_a_lateral_first_view_has_no_regions(dataset, copied_root, tmp_path):
    rewrite(copied_root, "train0", lambda record: record.update(views=["LATERAL"]))
    boxes_file = tmp_path / "boxes.jsonl"
    boxes_file.write_text('{"id": "train0", "boxes": {"spine": [0.1, 0.1, 0.2, 0.2]}}\n', encoding="utf-8")
    sample = dataset(root=copied_root, boxes_file=boxes_file)[0]
    assert sample.frontal is False
    assert not sample.regions.graph_known and not sample.regions.boxes_known
    assert not sample.regions.mentioned.any() and not sample.regions.visible.any() and not sample.detector_visible.any()
    assert sample.observations_known.all()


def test_a_boxes_file_of_another_data_set_is_refused(dataset, tmp_path):
    boxes_file = tmp_path / "boxes.jsonl"
    boxes_file.write_text('{"id": "elsewhere", "boxes": {"spine": [0.1, 0.1, 0.2, 0.2]}}\n', encoding="utf-8")
    with pytest.raises(UserError, match="boxes.jsonl has no box for any study of the split 'train'"):
        dataset(boxes_file=boxes_file)


@pytest.mark.parametrize(("uncertain", "value", "is_known"), [("positive", 1, True), ("negative", 0, True),
                                                              ("ignored", 0, False)])
def test_uncertain_observations(dataset, copied_root, vocabularies, uncertain, value, is_known):
    labels = {"Edema": -1, "Fracture": 1, "Pneumonia": 0}
    rewrite(copied_root, "train0", lambda record: record.update(observations=labels))
    sample = dataset(root=copied_root, uncertain=uncertain)[0]
    index = vocabularies.observations.index
    assert sample.observations[index("Edema")] == value and bool(sample.observations_known[index("Edema")]) is is_known
    assert sample.observations[index("Fracture")] == 1 and sample.observations_known[index("Fracture")]
    assert sample.observations[index("Pneumonia")] == 0 and sample.observations_known[index("Pneumonia")]
    # Blank counts as negative.
    assert sample.observations[index("Atelectasis")] == 0 and sample.observations_known[index("Atelectasis")]
    assert sample.observations.sum() == 1 + value


def test_a_second_view_follows_where_there_is_one(tmp_path, vocabularies, dataset):
    root = write_tiny_dataset(tmp_path / "two", train=4, views=2)
    one, two = dataset(root=root, views=1), dataset(root=root, views=2)
    assert [len(two[index].images) for index in range(4)] == [1, 2, 1, 2]
    assert [len(one[index].images) for index in range(4)] == [1, 1, 1, 1]
    assert torch.equal(two[1].images[0], one[1].images[0])


def test_views_are_augmented_each_for_itself(tmp_path, dataset):
    root = write_tiny_dataset(tmp_path / "two", train=4, views=2)
    rewrite(root, "train3", lambda record: record.update(images=[record["images"][0]] * 2))
    sample = dataset(root=root, views=2, augmentation=STRONG)[3]
    assert torch.equal(sample.images[0], sample.images[1]) and sample.warps.shape == (2, 2, 3)
    first, second = seen(sample)
    assert not torch.equal(first, second)


def test_augmentation_is_a_function_of_seed_epoch_and_index(dataset):
    first, second = dataset(augmentation=STRONG, seed=3), dataset(augmentation=STRONG, seed=3)
    assert is_same(first[4], second[4])
    second[2]
    changed = second[1, 4]
    assert not torch.equal(seen(first[4]), seen(changed))
    assert not torch.equal(first[4].regions.boxes, changed.regions.boxes)
    assert is_same(first[0, 4], second[4]) and is_same(first[1, 4], changed)
    assert not torch.equal(seen(first[4]), seen(dataset(augmentation=STRONG, seed=4)[4]))


def test_every_study_is_augmented_in_its_own_way(dataset, copied_root):
    rewrite(copied_root, "train4", lambda record: record.update(images=["images/train0_0.png"]))
    assert torch.equal(seen(dataset(root=copied_root)[0]), seen(dataset(root=copied_root)[4]))
    studies = dataset(root=copied_root, augmentation=STRONG)
    assert not torch.equal(seen(studies[0]), seen(studies[4]))


def test_boxes_move_with_the_image(dataset, vocabularies, tmp_path):
    """The bright rectangle of the tiny images stays at the left lung's box, and so does the box of a file."""
    plain = dataset(image_size=128)
    left_lung = vocabularies.anatomy.index("left lung")
    boxes_file = tmp_path / "boxes.jsonl"
    with boxes_file.open("w", encoding="utf-8") as file:
        for record in plain.records:
            box = record["graph"] and record["graph"]["regions"].get("left lung", {}).get("box")
            file.write(json.dumps({"id": record["id"], "boxes": {"left lung": box} if box else {}}) + "\n")
    moved = dataset(image_size=128, boxes_file=boxes_file,
                    augmentation=Augmentation(rotate=12, translate=0.05, scale=0.1, intensity=0))
    checked = 0
    for index in range(len(moved)):
        sample = moved[index]
        box = sample.regions.boxes[left_lung]
        assert torch.equal(sample.detector_boxes[left_lung], box)
        if not sample.regions.visible[left_lung] or box.max() == 1:
            continue
        grey = seen(sample)[0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        rows, columns = (grey > 0.45).nonzero(as_tuple=True)
        rectangle = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 128
        # The box is that of a rounded organ, so the corners of a rectangle stick out a little.
        torch.testing.assert_close(rectangle, box, atol=0.03, rtol=0)
        assert (box - plain[index].regions.boxes[left_lung]).abs().max() > 0.01
        checked += 1
    assert checked >= 3


def test_a_boxes_file_gives_boxes_by_study(dataset, vocabularies, tmp_path):
    boxes_file = tmp_path / "boxes.jsonl"
    boxes_file.write_text('{"id": "train4", "boxes": {"spine": [0.25, 0.0, 0.5, 1.5], "svc": [0.3, 0.3, 0.3, 0.4]}}\n',
                          encoding="utf-8")
    studies = dataset(boxes_file=boxes_file)
    spine = vocabularies.anatomy.index("spine")
    assert studies[4].detector_visible.nonzero().flatten().tolist() == [spine]
    assert studies[4].detector_boxes[spine].tolist() == [0.25, 0.0, 0.5, 1.0]
    assert not studies[0].detector_visible.any() and (studies[0].detector_boxes == 0).all()


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"id": "a"}', '{"id": "a", "boxes": {"spine": [1, 2]}}',
                                  '{"id": "a", "boxes": {"neck": [0, 0, 1, 1]}}'])
def test_a_malformed_boxes_file_is_named(dataset, tmp_path, line):
    boxes_file = tmp_path / "boxes.jsonl"
    boxes_file.write_text('{"id": "b", "boxes": {}}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.boxes_file=.*boxes\.jsonl line 2 .*is not of the form"):
        dataset(boxes_file=boxes_file)


def test_a_missing_boxes_file_is_named(dataset, tmp_path):
    with pytest.raises(UserError, match=r"data\.boxes_file=.*gone\.jsonl \(No such file"):
        dataset(boxes_file=tmp_path / "gone.jsonl")


def test_a_limit_is_a_seeded_subset(dataset):
    ids = [record["id"] for record in dataset(limit=3, seed=1).records]
    assert len(ids) == len(set(ids)) == 3 and ids == sorted(ids)
    assert ids == [record["id"] for record in dataset(limit=3, seed=1).records]
    assert len({tuple(record["id"] for record in dataset(limit=3, seed=seed).records) for seed in range(5)}) > 1
    assert len(dataset(limit=100)) == 8
    with pytest.raises(UserError, match="limit of 0"):
        dataset(limit=0)


def test_cached_images_are_the_images(dataset, copied_root):
    cached, plain = dataset(root=copied_root, cache_images=True), dataset()
    first = [cached[index] for index in range(len(cached))]
    shutil.rmtree(copied_root / "images")
    for index, sample in enumerate(first):
        assert is_same(sample, plain[index])
        assert is_same(sample, cached[index])


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    lambda path: path.write_bytes(b"not an image"),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:20] + b"\0" * 40 + path.read_bytes()[60:]),
], ids=["cut", "text", "empty", "overwritten"])
def test_a_damaged_image_names_file_and_study(dataset, copied_root, damage):
    damage(copied_root / "images/train5_0.png")
    studies = dataset(root=copied_root)
    with pytest.raises(UserError, match=r"Study train5: the image .*train5_0\.png is damaged") as caught:
        studies[5]
    assert "\n" not in str(caught.value)
    assert studies[4].study_id == "train4"


def test_a_missing_image_names_file_and_study(dataset, copied_root):
    (copied_root / "images/train5_0.png").unlink()
    with pytest.raises(UserError, match=r"No image of study train5 at .*train5_0\.png: prepare"):
        dataset(root=copied_root)[5]


@pytest.mark.parametrize(("key", "value", "message"), [
    ("observations", {"Odema": 1}, "Study train0: unknown observation 'Odema'; did you mean 'Edema'"),
    ("observations", {"Edema": 2}, "Study train0: Edema=2: must be 1, 0 or -1"),
    ("graph", {"regions": {"neck": {}}}, "Study train0: its graph is malformed .*'neck'"),
    ("graph", {"regions": {"spine": {"mentioned": True}}}, "Study train0: its graph is malformed .*'abnormal'"),
    ("graph", {}, "Study train0: its graph is malformed .*'regions'"),
    ("graph", {"regions": {"spine": {"box": [0, 0, 1, 10**400], "mentioned": True, "abnormal": False,
                                     "attributes": []}}}, "Study train0: its graph is malformed"),
])
def test_a_malformed_annotation_names_its_study(dataset, copied_root, key, value, message):
    rewrite(copied_root, "train0", lambda record: record.update({key: value}))
    with pytest.raises(UserError, match=message):
        dataset(root=copied_root)[0]


def test_wrong_settings_are_refused_at_once(dataset):
    with pytest.raises(UserError, match=r"data\.uncertain=maybe"):
        dataset(uncertain="maybe")
    with pytest.raises(UserError, match=r"data\.cleaning=none"):
        dataset(cleaning="none")


def test_attributes_outside_the_vocabulary_are_left_out(dataset, tiny_root, vocabularies):
    few = build_vocabularies(tiny_root, "corrected", 1, 10**6, True)
    studies = StudyDataset(tiny_root, "train", few, "corrected", SIDE, 30, 1, "positive")
    assert studies[0].regions.attributes.shape == (29, 1) and not studies[0].regions.attributes.any()
    assert torch.equal(studies[0].regions.mentioned, dataset()[0].regions.mentioned)


def test_tokens_tell_what_their_sentence_is_about_where_asked(dataset, vocabularies):
    sample = dataset(token_regions=True, max_tokens=6)[0]
    assert dataset()[0].token_regions is None
    assert sample.token_regions.shape == (len(sample.token_ids), len(vocabularies.anatomy.regions))
    expected = word_regions(sample.reference, vocabularies.anatomy)[: len(sample.token_ids) - 2]
    assert expected.any() and torch.equal(sample.token_regions[1:-1], torch.from_numpy(expected))
    assert not sample.token_regions[[0, -1]].any()  # BOS and EOS


# What is not annotated


def test_a_study_without_a_report_has_no_tokens_to_learn(dataset, copied_root):
    rewrite(copied_root, "train0", lambda record: record.update(report=None))
    studies = dataset(root=copied_root, token_regions=True)
    sample, other = studies[0], studies[1]
    assert sample.token_ids.tolist() == [studies.vocabularies.tokenizer.bos_id] and sample.reference == ""
    assert studies.read_reference(0) == ("train0", None) and studies.read_reference(1) == ("train1", other.reference)
    batch = collate([sample, other], 0)
    assert batch.has_report.tolist() == [False, True]
    assert not batch.token_mask[0, 1:].any() and torch.equal(batch.token_mask[1], torch.ones_like(batch.token_mask[1]))
    alone = collate([sample], 0)
    assert alone.token_ids.shape == (1, 2) and alone.token_regions.shape[:2] == (1, 2)
    assert not alone.token_regions.any() and not alone.has_report.any()
    assert len(studies.with_reports()) == len(studies) - 1 and studies.with_reports().study_id(0) == "train1"
    assert dataset().with_reports().records is not None and len(dataset().with_reports()) == len(dataset())


def test_an_empty_report_is_one(dataset, copied_root):
    rewrite(copied_root, "train0", lambda record: record.update(report=""))
    studies = dataset(root=copied_root)
    assert len(studies[0].token_ids) == 2 and collate([studies[0]], 0).has_report.all()


@pytest.mark.parametrize("uncertain", ["positive", "negative", "ignored"])
def test_an_observation_that_is_null_is_unknown(dataset, copied_root, uncertain):
    labels = {"Edema": 1, "Fracture": None, "Pneumonia": 0}
    rewrite(copied_root, "train0", lambda record: record.update(observations=labels))
    studies = dataset(root=copied_root, uncertain=uncertain)
    sample, names = studies[0], studies.vocabularies.observations
    assert [names[k] for k in (~sample.observations_known).nonzero().flatten()] == ["Fracture"]
    assert sample.observations.tolist() == [float(name == "Edema") for name in names]


def test_an_incomplete_graph_has_only_the_boxes_of_its_entries(dataset, copied_root):
    box = [0.1, 0.2, 0.3, 0.4]
    graph = {"complete": False, "regions": {"left lung": {"box": box}, "spine": {"box": None}}}
    rewrite(copied_root, "train0", lambda record: record.update(graph=graph))
    studies = dataset(root=copied_root)
    regions, index = studies[0].regions, studies.vocabularies.anatomy.index
    assert not regions.graph_known and regions.boxes_known and not regions.mentioned.any()
    assert regions.visible.nonzero().flatten().tolist() == [index("left lung")]
    assert set(regions.visibility_known.nonzero().flatten().tolist()) == {index("left lung"), index("spine")}
    complete = studies[4].regions
    assert complete.graph_known and complete.visibility_known.all()
    unboxed = studies[3].regions  # a graph made from the report alone
    assert unboxed.graph_known and not unboxed.boxes_known and not unboxed.visibility_known.any()
