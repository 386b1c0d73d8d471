"""From a source to a packed data set: complete, resumable after any end, the same for any number of workers."""

import json
import multiprocessing
import os
import shutil
import signal
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data.dataset import StudyDataset
from data.errors import UserError
from data.images.image_store import encode_image, read_image_bytes
from data.loaders import batches_per_epoch, training_loader
from data.records import read_records
from data.sources import preparation
from data.sources.preparation import Dropped, PreparedImage, Study, prepare
from data.vocabulary_builder import build_vocabularies
from tests.support.toy_source import ToyPlan, ToySource

SIDE = 32


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of ten studies."""
    monkeypatch.setattr(preparation, "STUDIES_PER_SHARD", 10)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    """The data set of 34 studies, prepared without any interruption."""
    out = tmp_path_factory.mktemp("whole") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "STUDIES_PER_SHARD", 10)
        prepare(ToySource(34), out, SIDE, 1)
    return content(out)


def test_the_data_set_holds_what_the_source_built(tmp_path):
    out, source = tmp_path / "deep" / "toy", ToySource(34)
    description = prepare(source, out, SIDE, 2)
    assert content(out).keys() == {
        "dataset.yaml",
        "records.jsonl",
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
        }
        assert len(images) == len(study.images)
        for reference, image in zip(images, study.images, strict=True):
            assert read_image_bytes(out, reference) == encode_image(image.pixels, SIDE)
    assert read == {}
    assert yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8")) == description
    assert list(tmp_path.rglob("*.partial")) == [] and [path.name for path in out.parent.iterdir()] == ["toy"]


def test_any_tar_program_reads_the_shards(tmp_path):
    prepare(ToySource(12), tmp_path / "toy", SIDE, 1)
    members = 0
    for path in sorted((tmp_path / "toy" / "images").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                with Image.open(tar.extractfile(member)) as image:
                    assert min(image.size) == SIDE and image.mode == "L"
                members += 1
    assert members == 20


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


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_do_not_change_a_byte(tmp_path, expected, workers):
    prepare(ToySource(34, pause=0.001), tmp_path / "toy", SIDE, workers)
    assert content(tmp_path / "toy") == expected


def test_a_second_run_changes_nothing(tmp_path, capsys, monkeypatch):
    out = tmp_path / "toy"
    first = prepare(ToySource(12), out, SIDE, 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(ToySource, "plans", lambda self: pytest.fail("nothing is to be done"))
    assert prepare(ToySource(12), out, SIDE, 2) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert f"{out} holds this data set already" in capsys.readouterr().out


class _Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_after_an_end_at_any_step_the_same_command_goes_on(tmp_path, expected, monkeypatch, moment):
    """The process ends at the first renaming, then at the second of what is left, and so on: all are survived."""
    steps_left = [0]

    def ending(rename):
        def rename_and_end(path, target):
            steps_left[0] -= 1
            if steps_left[0] == 0 and moment == "before":
                raise _Killed
            result = rename(path, target)
            if steps_left[0] == 0:
                raise _Killed
            return result

        return rename_and_end

    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, ending(getattr(Path, name)))
    ends = 0
    for steps in range(1, 40):
        steps_left[0] = steps
        try:
            prepare(ToySource(34), tmp_path / "toy", SIDE, 1)
        except _Killed:
            ends += 1
        else:
            break
    assert ends >= 4 and content(tmp_path / "toy") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_after_an_end_at_the_last_step_the_data_set_may_be_deleted(tmp_path, expected, monkeypatch):
    out = tmp_path / "toy"
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_print_summary", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(ToySource(34), out, SIDE, 1)
    assert content(out) == expected and (tmp_path / ".toy.unfinished").exists()
    shutil.rmtree(out)
    prepare(ToySource(34), out, SIDE, 1)
    assert content(out) == expected and [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_damaged_settings_are_told(tmp_path):
    interrupt(tmp_path / "toy")
    for text in ("", "[", "[]"):
        (tmp_path / ".toy.unfinished/settings.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"settings\.yaml is damaged: delete the folder .*\.toy\.unfinished"):
            prepare(ToySource(34), tmp_path / "toy", SIDE, 1)


def test_a_killed_preparation_goes_on_and_leaves_no_worker(tmp_path, expected):
    out, witnesses = tmp_path / "toy", tmp_path / "witnesses"
    witnesses.mkdir()
    slow = ToySource(34, pause=0.02, witnesses=witnesses)
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(slow, out, SIDE, 2))
    process.start()
    finished = tmp_path / ".toy.unfinished/parts/00001.json"
    _wait(finished.exists)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not out.exists()
    workers = [int(path.name) for path in witnesses.iterdir()]
    assert len(workers) == 2
    _wait(lambda: not any(_is_running(worker) for worker in workers))
    built = []
    again = ToySource(34)
    again.build = lambda plan: built.append(plan.number) or ToySource.build(again, plan)
    prepare(again, out, SIDE, 1)
    assert built and min(built) >= 20
    assert content(out) == expected


def _wait(condition) -> None:
    """Wait until it holds, but not for ever."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_worker_killed_for_memory_is_told_and_gone_on_after(tmp_path, expected):
    with pytest.raises(UserError, match="A worker process was killed"):
        prepare(ToySource(34, killed=25), tmp_path / "toy", SIDE, 2)
    prepare(ToySource(34), tmp_path / "toy", SIDE, 2)
    assert content(tmp_path / "toy") == expected


def interrupt(out: Path, **settings) -> None:
    """A preparation that ends in its second part."""
    source = ToySource(34, **settings)
    source.build = lambda plan: ToySource.build(source, plan) if plan.number < 15 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        prepare(source, out, SIDE, 1)


def test_other_settings_do_not_mix_with_what_was_begun(tmp_path, expected):
    out = tmp_path / "toy"
    interrupt(out)
    with pytest.raises(UserError, match=r"\.toy\.unfinished holds an interrupted preparation with another image_size"):
        prepare(ToySource(34), out, SIDE + 1, 1)
    with pytest.raises(UserError, match="another options.section"):
        prepare(ToySource(34, options={"section": "both"}), out, SIDE, 1)
    prepare(ToySource(34), out, SIDE, 1)
    assert content(out) == expected


def test_a_source_that_lists_others_than_before_is_told(tmp_path):
    interrupt(tmp_path / "toy")
    changed = ToySource(34)
    changed.plans = lambda: (ToyPlan(f"98{number:06d}", "train", number) for number in range(34))
    with pytest.raises(UserError, match="lists other studies than when .*unfinished was begun: delete that folder"):
        prepare(changed, tmp_path / "toy", SIDE, 1)


def test_other_settings_do_not_replace_a_data_set(tmp_path):
    out = tmp_path / "toy"
    prepare(ToySource(12), out, SIDE, 1)
    before = content(out)
    with pytest.raises(UserError, match="was prepared with another image_size: delete it or give another --out"):
        prepare(ToySource(12), out, 64, 1)
    with pytest.raises(UserError, match="was prepared with another options.section: delete"):
        prepare(ToySource(12, options={"section": "both"}), out, SIDE, 1)
    with pytest.raises(UserError, match="holds another data set: delete it"):
        prepare(ToySource(12, name="other"), out, SIDE, 1)
    assert content(out) == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "text"), [("notes.txt", "mine"), ("dataset.yaml", "{"), ("dataset.yaml", "[]")])
def test_what_is_no_data_set_is_left_alone(tmp_path, name, text):
    out = tmp_path / "toy"
    out.mkdir()
    (out / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="toy (exists and is no prepared data set|holds another data set): delete"):
        prepare(ToySource(12), out, SIDE, 1)
    assert content(tmp_path) == {f"toy/{name}": text.encode()}


def test_an_empty_folder_is_filled(tmp_path, expected):
    (tmp_path / "toy").mkdir()
    prepare(ToySource(34), tmp_path / "toy", SIDE, 1)
    assert content(tmp_path / "toy") == expected


@pytest.mark.parametrize("out", ["source", "source/prepared", "source/../source/a/b"])
def test_nothing_is_written_into_a_source(tmp_path, out):
    (tmp_path / "source").mkdir()
    with pytest.raises(UserError, match="lies in the source .*source, which stays untouched"):
        prepare(ToySource(12, paths=(tmp_path / "source",)), tmp_path / out, SIDE, 1)
    assert content(tmp_path) == {} and list((tmp_path / "source").iterdir()) == []


@pytest.mark.parametrize(
    ("image_size", "workers", "message"),
    [(16, 1, "image-size is 16: give at least 32"), (SIDE, 0, "workers is 0: give a number from 1 on")],
)
def test_impossible_numbers_are_refused(tmp_path, image_size, workers, message):
    with pytest.raises(UserError, match=message):
        prepare(ToySource(12), tmp_path / "toy", image_size, workers)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_prepare_the_same(tmp_path):
    out = tmp_path / "toy"
    slow = ToySource(34, pause=0.2)
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(slow, out, SIDE, 1))
    process.start()
    try:
        _wait((tmp_path / ".toy.unfinished/settings.yaml").exists)
        with pytest.raises(UserError, match="Another process is preparing .*toy"):
            prepare(ToySource(34), out, SIDE, 1)
    finally:
        process.kill()
        process.join()


def test_a_place_that_cannot_be_written_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="Preparing .* stopped .*: mend that and run the same command again"):
        prepare(ToySource(12), tmp_path / "file" / "toy", SIDE, 1)


def test_a_source_without_usable_studies_is_told(tmp_path):
    source = ToySource(3)
    source.build = lambda plan: Dropped(plan.id, "no report")
    with pytest.raises(UserError, match=r"No study of toy can be used \(no report: 3\)"):
        prepare(source, tmp_path / "toy", SIDE, 1)
    with pytest.raises(UserError, match="the source lists none"):
        prepare(ToySource(0), tmp_path / "none", SIDE, 1)


def test_plans_may_be_dropped_and_do_not_repeat(tmp_path):
    source = ToySource(4)
    plans = list(source.plans())
    source.plans = lambda: iter([plans[0], Dropped("99000009", "no split"), plans[1], plans[0], plans[2], plans[3]])
    description = prepare(source, tmp_path / "toy", SIDE, 1)
    assert description["counts"] == {"train": 2, "val": 1, "test": 1}
    assert description["dropped"] == {"a study of this id came before": 1, "no split": 1}


def test_a_study_without_images_is_dropped(tmp_path):
    source = ToySource(4)
    source.build = lambda plan: Study(
        plan.id,
        plan.split,
        () if plan.number == 3 else (PreparedImage(np.zeros((40, 40), np.uint8), "PA"),),
        "Clear.",
        None,
        None,
    )
    assert prepare(source, tmp_path / "toy", SIDE, 1)["dropped"] == {"no image": 1}


def test_packed_studies_shuffle_shard_and_resume_as_loose_ones(tmp_path):
    """Batches of packed data, from the middle of an epoch and for two processes, are those of the same loose files."""
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
    vocabularies = build_vocabularies(packed, "corrected", 1, 1, True)

    def batches(root, start, rank, workers):
        dataset = StudyDataset(root, "train", vocabularies, "corrected", SIDE, 20, views=2, uncertain="positive")
        return list(
            training_loader(dataset, 3, seed=1, epoch=2, start_batch=start, rank=rank, world_size=2, workers=workers)
        )

    seen = []
    for rank in range(2):
        whole = batches(packed, 0, rank, workers=2)
        assert len(whole) == batches_per_epoch(18, 3, 2) == 3
        for ours, theirs in zip(whole, batches(loose, 0, rank, workers=0), strict=True):
            assert ours.study_ids == theirs.study_ids and torch.equal(ours.images, theirs.images)
        (resumed,) = batches(packed, 2, rank, workers=0)
        assert resumed.study_ids == whole[2].study_ids and torch.equal(resumed.images, whole[2].images)
        seen += [study_id for batch in whole for study_id in batch.study_ids]
    assert len(seen) == len(set(seen)) == 18 and seen != sorted(seen)
