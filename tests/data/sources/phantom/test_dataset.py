"""The files of the phantom data set."""

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.errors import UserError
from data.ontology import CHANGES, Anatomy, observation_names
from data.records import CONTEXT_KEYS, SPLITS, read_records
from data.sources.phantom import dataset as phantom
from data.sources.phantom.dataset import PhantomSettings, assign_splits, prepare_phantom
from data.sources.phantom.findings import Finding, observations_of
from data.text.report_graph import read_report, scene_graph

SETTINGS = PhantomSettings(studies=24, image_size=32, seed=5)
PARALLEL_FIELDS = ("attributes", "attributes_ids", "phrases", "phrase_IDs", "sections", "comparison_cues",
                   "temporal_cues", "severity_cues", "texture_cues")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set that tests only read."""
    folder = tmp_path_factory.mktemp("phantom") / "made"
    prepare_phantom(folder, SETTINGS, workers=1)
    return folder


def prepared(folder: Path, **changes) -> Path:
    prepare_phantom(folder, PhantomSettings(**({"studies": 24, "image_size": 32, "seed": 5} | changes)), workers=1)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def graphs(folder: Path) -> list[dict]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "scene_graphs").iterdir())]


# Bytes


def test_equal_settings_give_equal_bytes_whatever_the_workers(written, tmp_path):
    prepare_phantom(tmp_path / "parallel", SETTINGS, workers=2)
    assert contents(tmp_path / "parallel") == contents(written)


def test_another_seed_gives_other_studies(written, tmp_path):
    other = contents(prepared(tmp_path / "other", seed=6))
    same = [name for name, content in contents(written).items() if other.get(name) == content]
    assert same == []


# Files


def test_the_prepared_data_set_can_be_read(written):
    description = yaml.safe_load((written / "dataset.yaml").read_text(encoding="utf-8"))
    assert description["name"] == "phantom" and description["image_size"] == 32 and description["seed"] == 5
    assert description["counts"] == {"train": 19, "val": 2, "test": 3}
    assert sum(len(read_records(written, split)) for split in SPLITS) == 24


def test_records_hold_what_the_schema_says(written):
    names = set(Anatomy.load().names)
    for record in lines(written / "records.jsonl"):
        assert list(record) == ["id", "split", "images", "views", "report", "observations", "graph", *CONTEXT_KEYS]
        assert record["views"][0] in ("PA", "AP") and len(record["views"]) == len(record["images"]) == 1
        image = Image.open(written / record["images"][0])
        assert image.size == (32, 32) and image.mode == "L"
        assert tuple(record["observations"]) == observation_names() and set(record["observations"].values()) <= {0, 1}
        assert set(record["graph"]["regions"]) <= names
        for region in record["graph"]["regions"].values():
            assert set(region) == {"box", "mentioned", "abnormal", "attributes"}
            assert region["mentioned"] or not (region["abnormal"] or region["attributes"])
            if region["box"]:
                x1, y1, x2, y2 = region["box"]
                assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            assert all(attribute.count("|") == 2 for attribute in region["attributes"])


def test_records_agree_with_the_truth(written):
    for record, truth in zip(lines(written / "records.jsonl"), lines(written / "truth.jsonl"), strict=True):
        assert (record["id"], record["split"]) == (truth["id"], truth["split"])
        findings = [Finding(f["kind"], f["side"], f["place"], f["severity"]) for f in truth["findings"]]
        assert {name for name, label in record["observations"].items() if label} == observations_of(findings)
        assert record["report"] == " ".join(sentence["text"] for sentence in truth["sentences"])
        mentioned = {region for sentence in truth["sentences"] for region in sentence["regions"]}
        abnormal = {r for sentence in truth["sentences"] if sentence["abnormal"] for r in sentence["regions"]}
        regions = record["graph"]["regions"]
        assert {name for name, region in regions.items() if region["mentioned"]} == mentioned
        assert {name for name, region in regions.items() if region["abnormal"]} == abnormal
        for name, box in truth["boxes"].items():
            assert (regions[name]["box"] if name in regions else None) == (box and pytest.approx(box, abs=2e-4))


def test_scene_graphs_follow_chest_imagenome(written, followed):
    for graph in [*graphs(written), *graphs(followed)]:
        for entry in graph["objects"]:
            assert entry["object_id"] == f"{graph['image_id']}_{entry['bbox_name']}"
            assert entry["width"] == entry["x2"] - entry["x1"] and entry["height"] == entry["y2"] - entry["y1"]
            for corner in ("x1", "y1", "x2", "y2"):
                assert isinstance(entry[corner], int)
                assert entry[corner] == pytest.approx(entry[f"original_{corner}"] * 224 / 32, abs=0.51)
        for entry in graph["attributes"]:
            assert entry[entry["bbox_name"]] is True
            assert len({len(entry[field]) for field in PARALLEL_FIELDS}) == 1
            for attributes in entry["attributes"]:
                judgements = [attribute for attribute in attributes if attribute.startswith("nlp|")]
                assert judgements in (["nlp|yes|abnormal"], ["nlp|yes|normal"])
            for cues, name in (("severity_cues", "severity"), ("comparison_cues", "comparison")):
                assert all(cue.startswith(f"{name}|yes|") for phrase in entry[cues] for cue in phrase)
        for relationship in graph["relationships"]:
            assert relationship["subject_id"] == f"{graph['image_id']}_{relationship['bbox_name']}"
    assert not any(graph["relationships"] for graph in graphs(written))  # no patient has an earlier study
    relations = {name for graph in graphs(followed) for r in graph["relationships"] for name in r["relationship_names"]}
    assert relations == {f"comparison|yes|{change}" for change in CHANGES}


def test_the_annotation_file_has_r2gens_layout(written):
    annotation = json.loads((written / "annotation.json").read_text(encoding="utf-8"))
    records = {record["id"]: record for record in lines(written / "records.jsonl")}
    assert list(annotation) == ["train", "val", "test"]
    assert sum(len(studies) for studies in annotation.values()) == len(records)
    for split, studies in annotation.items():
        for study in studies:
            record = records[study["id"]]
            assert study["split"] == record["split"] == split and study["report"] == record["report"]
            assert [f"images/{path}" for path in study["image_path"]] == record["images"]


def test_two_views_add_a_lateral_image_and_change_nothing_else(written, tmp_path):
    both = prepared(tmp_path / "both", two_views=True)
    for record, frontal in zip(lines(both / "records.jsonl"), lines(written / "records.jsonl"), strict=True):
        assert record["images"] == [f"images/{record['id']}.png", f"images/{record['id']}_lateral.png"]
        assert record["views"] == [frontal["views"][0], "LATERAL"]
        first, second = (np.asarray(Image.open(both / image)) for image in record["images"])
        assert first.shape == second.shape and (first != second).any()
        assert (both / record["images"][0]).read_bytes() == (written / frontal["images"][0]).read_bytes()
        assert record["graph"] == frontal["graph"]


def test_annotation_noise_touches_the_training_graphs_only(written, tmp_path):
    noisy = prepared(tmp_path / "noisy", annotation_noise=0.4)
    assert (noisy / "truth.jsonl").read_bytes() == (written / "truth.jsonl").read_bytes()
    changed_boxes = dropped = invented = 0
    for record, clean in zip(lines(noisy / "records.jsonl"), lines(written / "records.jsonl"), strict=True):
        if record["split"] != "train":
            assert record == clean
            continue
        assert record["observations"] == clean["observations"] and record["report"] == clean["report"]
        for name, region in clean["graph"]["regions"].items():
            disturbed = record["graph"]["regions"][name]
            changed_boxes += disturbed["box"] != region["box"]
            dropped += len(set(region["attributes"]) - set(disturbed["attributes"]))
            invented += len(set(disturbed["attributes"]) - set(region["attributes"]))
    assert changed_boxes > 100 and dropped > 10 and invented > 10


def test_splits_have_their_shares():
    splits = Counter(assign_splits(PhantomSettings(studies=1000)))
    assert splits == {"train": 800, "val": 80, "test": 120}
    assert set(assign_splits(PhantomSettings(studies=10))) == set(SPLITS)


# Folders


def test_a_data_set_of_the_same_settings_is_left_alone(written, capsys):
    before = (written / "records.jsonl").stat().st_mtime_ns
    prepare_phantom(written, SETTINGS, workers=1)
    assert (written / "records.jsonl").stat().st_mtime_ns == before
    assert "holds this data set already" in capsys.readouterr().out


def test_other_contents_are_refused_and_kept(written, tmp_path):
    with pytest.raises(UserError, match="holds a phantom data set with studies 24 instead of 25: delete it, or choose"):
        prepare_phantom(written, PhantomSettings(studies=25, image_size=32, seed=5), workers=1)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists and is not a prepared data set"):
        prepare_phantom(tmp_path, SETTINGS, workers=1)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    (tmp_path / "dataset.yaml").write_text("name: iu_xray", encoding="utf-8")
    with pytest.raises(UserError, match="holds another data set"):
        prepare_phantom(tmp_path, SETTINGS, workers=1)


def test_after_an_end_in_any_study_the_same_command_goes_on(written, tmp_path, monkeypatch):
    """The disk is full at the third image, then once more. Finished studies are not repeated and no byte differs."""
    write_image, drawn = phantom._write_image, []

    def fill_up(path: Path, image: np.ndarray) -> None:
        drawn.append(path.name)
        if len(drawn) in (3, 9):
            path.write_bytes(b"half an image")
            raise OSError(28, "No space left on device")
        write_image(path, image)

    monkeypatch.setattr(phantom, "_write_image", fill_up)
    for _ in range(2):
        with pytest.raises(UserError, match=r"Cannot write .*made \(No space left on device\): fix that and run"):
            prepare_phantom(tmp_path / "made", SETTINGS, workers=1)
        assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match=r"made\.unfinished holds an interrupted .* with different settings \(seed\)"):
        prepared(tmp_path / "made", seed=6)
    prepare_phantom(tmp_path / "made", SETTINGS, workers=1)
    assert contents(tmp_path / "made") == contents(written) and len(drawn) == 24 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_damaged_studies_of_an_interrupted_phantom_are_simulated_again(written, tmp_path, monkeypatch):
    write_image, drawn = phantom._write_image, []

    def fail_late(path: Path, image: np.ndarray) -> None:
        drawn.append(path.name)
        if len(drawn) == 9:
            raise OSError(28, "No space left on device")
        write_image(path, image)

    monkeypatch.setattr(phantom, "_write_image", fail_late)
    with pytest.raises(UserError, match="No space left on device"):
        prepare_phantom(tmp_path / "made", SETTINGS, workers=1)
    folder = tmp_path / ".made.unfinished"
    parts, images = sorted((folder / "parts").iterdir()), sorted((folder / "dataset/images").iterdir())
    graphs = sorted((folder / "dataset/scene_graphs").iterdir())
    parts[0].write_bytes(parts[0].read_bytes().replace(b"train", b"valid").replace(b" lung", b" bone"))
    parts[1].write_bytes(b"x")
    images[2].write_bytes(images[3].read_bytes())
    graphs[4].unlink()
    prepare_phantom(tmp_path / "made", SETTINGS, workers=1)
    assert contents(tmp_path / "made") == contents(written) and len(drawn) == 24 + 1 + 4


def test_a_killed_phantom_goes_on_and_leaves_no_worker(written, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=prepare_phantom, args=(tmp_path / "made", SETTINGS, 2))
    process.start()
    parts = tmp_path / ".made.unfinished" / "parts"
    end = time.monotonic() + 60
    while not any(parts.glob("*.json")):
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    prepare_phantom(tmp_path / "made", SETTINGS, workers=1)
    assert contents(tmp_path / "made") == contents(written)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"studies": 3}, "--studies=3: must be from 10 to 999999"),
        ({"image_size": 8}, "--image-size=8: must be from 32 to 2048"),
        ({"prevalence": -1.0}, "--prevalence=-1.0: must be from 0.0"),
        ({"annotation_noise": 1.5}, "--annotation-noise=1.5: must be from 0.0 to 1.0"),
        ({"annotation_noise": float("nan")}, "--annotation-noise=nan"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PhantomSettings(**settings)


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="--workers=0: must be at least 1"):
        prepare_phantom(tmp_path / "made", SETTINGS, workers=0)


# Patients with several studies


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of patients who mostly have several studies; tests only read it."""
    return prepared(tmp_path_factory.mktemp("phantom") / "followed", studies=120, priors=0.8)


def test_priors_are_earlier_studies_with_an_image(followed):
    records = {record["id"]: record for record in lines(followed / "records.jsonl")}
    priors = {name: record["prior"] for name, record in records.items() if record["prior"] is not None}
    assert len(priors) > 40
    for name, prior in priors.items():
        assert all(records[prior][key] == records[name][key] for key in ("patient", "split"))
        assert records[prior]["taken"] < records[name]["taken"] and (followed / records[prior]["images"][0]).exists()
    assert sum(read_records(followed, split).prior(0) is not None for split in SPLITS) <= 3
    assert all(record["indication"] for record in records.values())


def test_comparisons_say_what_is_true_of_the_pair(followed):
    truths = {truth["id"]: truth for truth in lines(followed / "truth.jsonl")}
    stated = Counter()
    for record in lines(followed / "records.jsonl"):
        changes = truths[record["id"]].get("changes")
        assert (changes is None) == (record["prior"] is None)
        for name, region in record["graph"]["regions"].items():
            if "change" in region:
                stated[region["change"]] += 1
                assert region["compared_with"] == record["prior"]
                assert changes.get(name, region["change"]) == region["change"]
        if changes is None:
            assert all(sentence["comparison"] is None for sentence in truths[record["id"]]["sentences"])
            read = scene_graph(read_report(record["report"]))["regions"].values()
            assert not any("change" in region for region in read)
    assert set(stated) == set(CHANGES)


def test_a_reader_finds_the_changes_in_the_reports(followed):
    truths = {truth["id"]: truth.get("changes", {}) for truth in lines(followed / "truth.jsonl")}
    right = [
        truths[record["id"]][name] == region["change"]
        for record in lines(followed / "records.jsonl")
        for name, region in scene_graph(read_report(record["report"]))["regions"].items()
        if "change" in region and name in truths[record["id"]]
    ]
    assert len(right) > 50 and sum(right) / len(right) > 0.97


def test_the_scores_without_images_are_printed(tmp_path, capsys):
    prepared(tmp_path / "followed", studies=40, priors=0.9)
    printed = capsys.readouterr().out
    assert "observations from the indication alone: micro F1 0." in printed
    assert "observations from the previous report alone: micro F1 0." in printed


def test_a_data_set_of_before_these_settings_is_kept(tmp_path, capsys):
    folder = prepared(tmp_path / "made", studies=10)
    description = yaml.safe_load((folder / "dataset.yaml").read_text())
    for name in ("priors", "informativeness"):
        del description[name]
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    prepared(folder, studies=10)
    assert "holds this data set already" in capsys.readouterr().out
    with pytest.raises(UserError, match="priors 0.0 instead of 0.5"):
        prepared(folder, studies=10, priors=0.5)
