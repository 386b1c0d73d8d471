"""Trains and tests the runs of the studies, several at a time, from one pretrained trunk."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save

from benchmarks.ablation.arms import DEMO, TRUNK, Run, fingerprint
from benchmarks.support.scripts import run_script
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from modules.checkpoint import load_checkpoint
from modules.evaluation.results import write_bytes_atomically

STUDIES, IMAGE_SIZE = 3000, 128
# Seed of the phantoms that the trunk is trained on; those of the arms have seed 0.
TRUNK_SEED = 1
_PREFIX = "patch_encoder.trunk."

Result = TypeVar("Result")


def prepare(data: Path, noise: int = 0) -> Path:
    """Simulate the phantom with `noise` per cent if it is absent; return its folder. Without noise it is the demo's."""
    folder = data / ("phantom" if noise == 0 else f"phantom_noise{noise}")
    prepare_phantom(folder, PhantomSettings(studies=STUDIES, image_size=IMAGE_SIZE, annotation_noise=noise / 100))
    return folder


def train_trunk(file: Path, data: Path, results: Path, overrides: Sequence[str], threads: int) -> Path:
    """Return `file`, which has the initial weights of all trunks. It is trained with `threads` and written if absent.

    The shipped file lets a study be continued on another machine, where the same training would end elsewhere. Its
    convolutions are in half precision. Raises UserError if the training fails.
    """
    if not file.is_file():
        folder = results / f"trunk_{fingerprint([*TRUNK, *overrides])}"
        phantom = data / "phantom_trunk"
        prepare_phantom(phantom, PhantomSettings(studies=STUDIES, image_size=IMAGE_SIZE, seed=TRUNK_SEED))
        run_script(folder, _training_command(folder, phantom, 0, [*TRUNK, *overrides]), threads)
        weights = {
            name.removeprefix(_PREFIX): (value.half() if value.dim() > 1 else value).contiguous()
            for name, value in load_checkpoint(folder).weights.items() if name.startswith(_PREFIX)
        }
        write_bytes_atomically(file, [save(weights, {"format": "pt"})])
    return file


def train_and_test(run: Run, phantom: Path, trunk: Path, test_options: Sequence[str] = ()) -> None:
    """Train and test a run on the data set `phantom`, starting from the weights in the file `trunk`.

    A run that continues another starts from the best checkpoint of that one instead, and its last weights are tested.
    Raises UserError if a script fails.
    """
    settings, tested = [f"model.patch_encoder.weights={trunk}", *run.settings_of_training], run.folder
    if run.continued is not None:
        settings.append(f"train.init_from={run.continued.folder / 'best'}")
        tested = run.folder / "last"
    run_script(run.folder, _training_command(run.folder, phantom, run.seed, settings))
    run_script(run.folder, [
        "main_test.py", "--checkpoint", str(tested), "--split", "test", "--graph", run.arm.graph.value,
        *test_options,
    ])


def complete(runs: Sequence[Run], jobs: int, make: Callable[[Run], Result]) -> Iterator[Result]:
    """Yield `make(run)` of all `runs`, `jobs` at a time, each as soon as it is finished.

    If one fails, those that have not started are left out.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(make, run): run for run in runs}
        try:
            for future in as_completed(futures):
                yield future.result()
                print(f"finished: {futures[future].name}", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _training_command(folder: Path, phantom: Path, seed: int, settings: Sequence[str]) -> list[str]:
    return [
        "main_train.py", "--config", str(DEMO), f"name={folder.name}", f"results={folder.parent}",
        f"seed={seed}", f"data.root={phantom}", "train.resume=true", *settings,
    ]
