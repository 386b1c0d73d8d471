"""Preparing the data set of a source."""

import json
import shutil

import pytest
import torch
import yaml

from data.dataset import StudyDataset
from data.errors import UserError
from data.images.image_store import encode_image, read_image_bytes
from data.loaders import training_loader
from data.records import CONTEXT_KEYS, read_records
from data.sources import preparation
from data.sources.preparation import prepare
from data.sources.source import Dropped
from data.storage.prepared_files import write_manifest
from data.vocabulary_builder import build_vocabularies
from tests.support.sources.toy_source import SIDE, ToySource, folder_content

pytestmark = pytest.mark.usefixtures("small_parts")


def test_the_data_set_holds_what_the_source_built(tmp_path):
    out, source = tmp_path / "deep" / "toy", ToySource(34)
    description = prepare(source, out, SIDE, 2)
    (index,) = (path.name for path in (out / "index").iterdir() if path.is_dir())
    assert folder_content(out).keys() == {
        "dataset.yaml",
        "manifest.json",
        "records.jsonl",
        "index/current.json",
        f"index/{index}/manifest.json",
        *(f"index/{index}/{split}.npy" for split in ("train", "val", "test")),
        *(f"index/{index}/training-{rule}.v1.json" for rule in ("iu_xray", "mimic_cxr", "corrected")),
        *(f"images/{number:05d}.tar" for number in range(4)),
    }
    read = {record["id"]: record for split in ("train", "val", "test") for record in read_records(out, split)}
    for plan in source.plans():
        study = source.build(plan)
        if isinstance(study, Dropped):
            assert plan.id not in read
            continue
        record = read.pop(plan.id)
        images = record.pop("images")
        assert record == {
            "id": study.id,
            "split": study.split,
            "views": [image.view for image in study.images],
            "report": study.report,
            "observations": study.observations,
            "graph": study.graph,
            **dict.fromkeys(CONTEXT_KEYS),
        }
        assert len(images) == len(study.images)
        for reference, image in zip(images, study.images, strict=True):
            assert read_image_bytes(out, reference) == encode_image(image.pixels, SIDE)
    assert read == {}
    assert yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8")) == description
    assert list(tmp_path.rglob("*.partial")) == [] and [path.name for path in out.parent.iterdir()] == ["toy"]


def test_the_summary_counts_and_compares(tmp_path, capsys):
    description = prepare(ToySource(34, expected={"train": 20, "numbers": 34, "val": 7}), tmp_path / "toy", SIDE, 1)
    assert description["counts"] == {"train": 16, "val": 7, "test": 7} and description["images"] == 54
    assert description["dropped"] == {"damaged image": 4} and description["warnings"] == {"no second image": 6}
    assert description["expected"] == {"train": 20, "numbers": 34, "val": 7}
    assert description["found"] == {"train": 16, "numbers": 34, "val": 7}
    assert description["vocabularies"].keys() == {"anatomy", "attributes", "observations"}
    assert capsys.readouterr().out.splitlines() == [
        "toy: invented numbers",
        f"{tmp_path / 'toy'}: 30 studies (16 train, 7 val, 7 test), 54 images",
        "  dropped: damaged image: 4",
        "  warnings: no second image: 6",
        "  differs: train: 16 instead of 20",
    ]


def test_a_second_run_changes_nothing(tmp_path, capsys, monkeypatch):
    out = tmp_path / "toy"
    first = prepare(ToySource(12), out, SIDE, 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(ToySource, "plans", lambda self: pytest.fail("the data set is complete"))
    assert prepare(ToySource(12), out, SIDE, 2) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert f"{out} holds this data set already" in capsys.readouterr().out


def test_after_an_end_at_the_last_step_the_data_set_may_be_deleted(tmp_path, expected, monkeypatch):
    out = tmp_path / "toy"
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_print_summary", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(ToySource(34), out, SIDE, 1)
    assert folder_content(out) == expected and (tmp_path / ".toy.unfinished").exists()
    shutil.rmtree(out)
    prepare(ToySource(34), out, SIDE, 1)
    assert folder_content(out) == expected and [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_other_settings_do_not_replace_a_data_set(tmp_path):
    out = tmp_path / "toy"
    prepare(ToySource(12), out, SIDE, 1)
    before = folder_content(out)
    message = r"was prepared with different settings \(image_size\): delete it, or choose another --out"
    with pytest.raises(UserError, match=message):
        prepare(ToySource(12), out, 64, 1)
    with pytest.raises(UserError, match=r"was prepared with different settings \(options.section\): delete"):
        prepare(ToySource(12, options={"section": "both"}), out, SIDE, 1)
    with pytest.raises(UserError, match="holds another data set: delete it"):
        prepare(ToySource(12, name="other"), out, SIDE, 1)
    assert folder_content(out) == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "text"), [("notes.txt", "mine"), ("dataset.yaml", "{"), ("dataset.yaml", "[]")])
def test_what_is_no_data_set_is_left_alone(tmp_path, name, text):
    out = tmp_path / "toy"
    out.mkdir()
    (out / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="toy (exists and is not a prepared data set|holds another data set): delete"):
        prepare(ToySource(12), out, SIDE, 1)
    assert folder_content(tmp_path) == {f"toy/{name}": text.encode()}


def test_an_empty_folder_is_filled(tmp_path, expected):
    (tmp_path / "toy").mkdir()
    prepare(ToySource(34), tmp_path / "toy", SIDE, 1)
    assert folder_content(tmp_path / "toy") == expected


@pytest.mark.parametrize("out", ["source", "source/prepared", "source/../source/a/b"])
def test_nothing_is_written_into_a_source(tmp_path, out):
    (tmp_path / "source").mkdir()
    with pytest.raises(UserError, match="is inside the source .*source, which is never changed"):
        prepare(ToySource(12, paths=(tmp_path / "source",)), tmp_path / out, SIDE, 1)
    assert folder_content(tmp_path) == {} and list((tmp_path / "source").iterdir()) == []


@pytest.mark.parametrize(
    ("image_size", "workers", "message"),
    [(16, 1, "--image-size=16: must be at least 32"), (SIDE, 0, "--workers=0: must be at least 1")],
)
def test_impossible_numbers_are_refused(tmp_path, image_size, workers, message):
    with pytest.raises(UserError, match=message):
        prepare(ToySource(12), tmp_path / "toy", image_size, workers)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="Preparing .* stopped .*: fix that and run the same command again"):
        prepare(ToySource(12), tmp_path / "file" / "toy", SIDE, 1)


def test_a_source_without_usable_studies_is_told(tmp_path):
    source = ToySource(3)
    source.build = lambda plan: Dropped(plan.id, "no report")
    with pytest.raises(UserError, match=r"No study of toy can be used \(no report: 3\)"):
        prepare(source, tmp_path / "toy", SIDE, 1)
    with pytest.raises(UserError, match="the source lists none"):
        prepare(ToySource(0), tmp_path / "none", SIDE, 1)


def test_packed_studies_shuffle_shard_and_resume_as_loose_ones(tmp_path):
    """Packed and loose images give the same batches, also within an epoch and for two processes."""
    packed, loose = tmp_path / "packed", tmp_path / "loose"
    prepare(ToySource(40), packed, SIDE, 1)
    (loose / "images").mkdir(parents=True)
    with (loose / "records.jsonl").open("w", encoding="utf-8") as file:
        for line in (packed / "records.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            for position, reference in enumerate(record["images"]):
                record["images"][position] = f"images/{record['id']}_{position}.jpg"
                (loose / record["images"][position]).write_bytes(read_image_bytes(packed, reference))
            file.write(json.dumps(record) + "\n")
    (loose / "dataset.yaml").write_bytes((packed / "dataset.yaml").read_bytes())
    write_manifest(loose)
    vocabularies = build_vocabularies(packed, "corrected", 1, 1, True)

    def batches(root, start, rank, workers):
        dataset = StudyDataset(root, "train", vocabularies, "corrected", SIDE, 20, views=2, uncertain="positive")
        return list(
            training_loader(dataset, 6, seed=1, epoch=2, start_batch=start, rank=rank, world_size=2, workers=workers)
        )

    seen = []
    for rank in range(2):
        whole = batches(packed, 0, rank, workers=2)
        assert len(whole) == 3
        for ours, theirs in zip(whole, batches(loose, 0, rank, workers=0), strict=True):
            assert ours.study_ids == theirs.study_ids and torch.equal(ours.images, theirs.images)
        (resumed,) = batches(packed, 2, rank, workers=0)
        assert resumed.study_ids == whole[2].study_ids and torch.equal(resumed.images, whole[2].images)
        seen += [study_id for batch in whole for study_id in batch.study_ids]
    assert len(seen) == len(set(seen)) == 18 and seen != sorted(seen)
