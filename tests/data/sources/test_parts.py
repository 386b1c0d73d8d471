"""Building studies in parts: with any number of workers, resumed after any interruption."""

import json
import multiprocessing
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from data.sources.preparation import prepare
from data.sources.source import Dropped, PreparedImage, Study
from tests.support.sources.toy_source import SIDE, ToyPlan, ToySource, folder_content, prepare_interrupted, wait_until

pytestmark = pytest.mark.usefixtures("small_parts")


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


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_do_not_change_a_byte(tmp_path, expected, workers):
    prepare(ToySource(34, pause=0.001), tmp_path / "toy", SIDE, workers)
    assert folder_content(tmp_path / "toy") == expected


class _Killed(BaseException):
    """Simulates the end of the process."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_after_an_end_at_any_step_the_same_command_goes_on(tmp_path, expected, monkeypatch, moment):
    """The process ends at the first rename, then at the second one of the next run, and so on; each time it resumes."""
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
    assert ends >= 4 and folder_content(tmp_path / "toy") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_killed_preparation_goes_on_and_leaves_no_worker(tmp_path, expected):
    out, witnesses = tmp_path / "toy", tmp_path / "witnesses"
    witnesses.mkdir()
    slow = ToySource(34, pause=0.02, witnesses=witnesses)
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(slow, out, SIDE, 2))
    process.start()
    finished = tmp_path / ".toy.unfinished/parts/00001.json"
    wait_until(finished.exists)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not out.exists()
    workers = [int(path.name) for path in witnesses.iterdir()]
    assert len(workers) == 2
    wait_until(lambda: not any(_is_running(worker) for worker in workers))
    built = []
    again = ToySource(34)
    again.build = lambda plan: built.append(plan.number) or ToySource.build(again, plan)
    prepare(again, out, SIDE, 1)
    assert built and min(built) >= 20
    assert folder_content(out) == expected


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
    assert folder_content(tmp_path / "toy") == expected


def _change_count(content: bytes) -> bytes:
    return content.replace(b'"train": 5', b'"train": 6')


def _without_digests(content: bytes) -> bytes:
    state = json.loads(content)
    del state["files"], state["sha256"]
    return json.dumps(state).encode()


@pytest.mark.parametrize("name", ["dataset/images/00000.tar", "parts/00000.jsonl", "parts/00000.json"])
@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: b"x", lambda content: content[:-1], lambda content: content + b"\n",
    lambda content: content.replace(b"5", b"4", 1), _change_count, _without_digests, None,
], ids=["empty", "rubbish", "truncated", "longer", "changed", "count", "earlier", "missing"])
def test_a_damaged_part_is_built_again(tmp_path, expected, name, damage, capsys):
    prepare_interrupted(tmp_path / "toy")
    path = tmp_path / ".toy.unfinished" / name
    if damage is None:
        path.unlink()
    elif name.endswith(".json") or damage not in (_change_count, _without_digests):
        path.write_bytes(damage(path.read_bytes()))
    prepare(ToySource(34), tmp_path / "toy", SIDE, 1)
    assert folder_content(tmp_path / "toy") == expected
    assert capsys.readouterr().err.count("\n") <= 1


def test_a_source_that_lists_others_than_before_is_told(tmp_path):
    prepare_interrupted(tmp_path / "toy")
    changed = ToySource(34)
    changed.plans = lambda: (ToyPlan(f"98{number:06d}", "train", number) for number in range(34))
    message = "lists different studies than when .*unfinished was started: delete that folder"
    with pytest.raises(UserError, match=message):
        prepare(changed, tmp_path / "toy", SIDE, 1)


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
