"""Compares trunks on real X-rays: mean AUROC of findings on ChestX-ray14's open validation split.

    python -m benchmarks real_images --data ../shared/real --out FILE.json [--arms NAME;...] [--seeds 0,1,2] [key=value]

Every arm trains the image side alone (`model.report=false`) on the 1,976 training images of FOLDER/nih_cxr14 and is
scored on its 307 validation images, over the findings with at least 10 positives: a small trunk with fresh weights, the
same after training on phantoms, EfficientNet-lite0 with fresh and with ImageNet weights, the latter with larger images,
and the best of all with phantoms mixed in. All arms see the X-rays about equally often. The last epoch is scored, so
that no epoch is chosen on these images. Finished runs are skipped, interrupted ones are resumed, and FILE.json is
rewritten after each run. Intervals resample the patients of the split.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.command import parse_seeds
from benchmarks.support.scripts import run_script
from data.errors import UserError, missing, unknown_name
from data.prepare import main as prepare_main
from data.records import read_records
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from modules.evaluation.metrics.clinical import FREQUENT
from modules.evaluation.metrics.multilabel import macro_auroc
from modules.evaluation.metrics.weighted import ScoreSet, percentile_interval
from modules.evaluation.results import write_atomically
from modules.pretrained.efficientnet_lite0 import write_weights

# Observations and the finding of ChestX-ray14 that makes each positive.
OBSERVATIONS = (
    "No Finding=findings:No Finding", "Atelectasis=findings:Atelectasis", "Cardiomegaly=findings:Cardiomegaly",
    "Consolidation=findings:Consolidation", "Edema=findings:Edema", "Lung Lesion=findings:Mass",
    "Lung Lesion=findings:Nodule", "Lung Opacity=findings:Infiltration", "Pleural Effusion=findings:Effusion",
    "Pleural Other=findings:Pleural_Thickening", "Pneumonia=findings:Pneumonia", "Pneumothorax=findings:Pneumothorax",
)
_SMALL = (
    "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.stride=16", "optim.lr_patch_encoder=1e-3",
    "train.precision=bf16",
)
_EFFICIENT = ("model.patch_encoder.backbone=timm:tf_efficientnet_lite0",)
_FRESH = ("model.patch_encoder.weights=none",)
# The first layers of a pretrained trunk, which 1,976 images improve little; most of the time goes into them.
_FIRST_LAYERS = ",".join(
    f"patch_encoder.trunk.network.{name}" for name in ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")
)
# Names of the arms, in the order of their runs.
FRESH_SMALL, PHANTOM_SMALL = "small, fresh", "small, from phantoms"
FRESH_EFFICIENT, IMAGENET_EFFICIENT = "EfficientNet-lite0, fresh", "EfficientNet-lite0, ImageNet"
_LARGE = 224  # the size of the images that EfficientNet-lite0's weights were trained with
IMAGENET_LARGE = f"EfficientNet-lite0, ImageNet, {_LARGE} pixels"
MIXED = "best with phantoms mixed in"
ARMS = (FRESH_SMALL, PHANTOM_SMALL, IMAGENET_EFFICIENT, FRESH_EFFICIENT, IMAGENET_LARGE, MIXED)
# The pairs of arms whose difference is reported: first minus second. The mixed arm is compared with its own arm alone.
PAIRS = (
    (PHANTOM_SMALL, FRESH_SMALL), (IMAGENET_EFFICIENT, FRESH_EFFICIENT), (IMAGENET_EFFICIENT, FRESH_SMALL),
    (IMAGENET_LARGE, IMAGENET_EFFICIENT),
)
# Settings of all runs; configs/nih_cxr14.yaml has the rest.
COMMON = (
    "data.image_size=128", "data.workers=0", "data.cache_images=true", "data.rotate=5", "optim.batch_size=32",
    "optim.lr=1e-3", "optim.warmup_steps=60", "model.localizer=false", "eval.box_source=atlas",
    "train.channels_last=true", "train.epochs=6", "train.validate_from=6",
)
# The phantoms that a trunk is trained on first look as different from each other as X-rays of many hospitals do.
_PHANTOMS_FIRST = ("data.domain_randomisation=0.5",)
# Of the mixed arm: one phantom for two X-rays, each of which is seen about as often as in the other arms.
_PHANTOMS_MIXED_IN = ("data.weights=[2,1]", "train.epochs=4", "train.validate_from=4")


@dataclass(frozen=True)
class ScoredRun:
    """A finished run.

    probabilities   [studies, observations], in the order of the split
    """

    arm: str
    seed: int
    probabilities: NDArray


@dataclass(frozen=True)
class Reference:
    """The labels of a split: ids [n], names [K], labels and known [n, K] bool, patients [n] int."""

    ids: list[str]
    names: list[str]
    labels: NDArray
    known: NDArray
    patients: NDArray


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `real_images`."""
    parser = commands.add_parser("real_images", help="AUROC of findings in real X-rays, by trunk and its pretraining")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="contains nih_cxr14: ../shared/real")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="results, updated by each run")
    parser.add_argument("--arms", help="names of arms, separated by semicolons (default: all)")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas (default: %(default)s)")
    parser.add_argument("--phantoms", type=int, default=3000, help="simulated studies (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results/real_images"), metavar="FOLDER",
                        help="data sets and run folders (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every run, e.g. train.epochs=4")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train and score the missing runs, and write the results after each."""
    arms, seeds = _parse_arms(options.arms), parse_seeds(options.seeds)
    films = prepare_films(options.data, options.results / "nih_cxr14")
    reference = read_reference(films, "val")
    finished: list[ScoredRun] = []
    for arm in sorted(arms, key=ARMS.index):  # the mixed arm last: it needs the others
        base = _best_arm(finished, reference) if arm == MIXED else arm
        for seed in seeds:
            folder = _train_and_test(options, films, arm, base, seed)
            finished.append(ScoredRun(arm, seed, read_probabilities(folder / "predictions_val.jsonl", reference)))
            summary = summarise(finished, reference) | {
                "settings": [*COMMON, *options.overrides], "phantoms": options.phantoms,
                "mixed_into": base if arm == MIXED else None,
            }
            write_atomically(options.out, [json.dumps(summary, indent=1) + "\n"])
            print(f"{arm}, seed {seed}: {score(finished[-1].probabilities, reference)[0]:.3f}", flush=True)
    _print_table(summary)


def _parse_arms(names: str | None) -> list[str]:
    """Return the arms of `names`. Raises UserError for an unknown one, and for the mixed arm without another."""
    chosen = list(ARMS) if names is None else [name.strip() for name in names.split(";")]
    for name in chosen:
        if name not in ARMS:
            raise unknown_name("arm", name, ARMS, "--arms")
    if chosen == [MIXED]:
        raise UserError(f"--arms {MIXED}: it continues the best of other arms: name at least one of them, too")
    return chosen


def prepare_films(data: Path, out: Path) -> Path:
    """Prepare the images of `data`/nih_cxr14 in the folder `out` if that is not done; return it.

    Raises UserError if they are missing or unusable.
    """
    folder = data / "nih_cxr14"
    if not (folder / "labels.csv").is_file():
        raise missing("table of ChestX-ray14", folder / "labels.csv", "give --data the folder that contains nih_cxr14")
    status = prepare_main([
        "table", "--table", str(folder / "labels.csv"), "--images", str(folder / "images"), "--out", str(out),
        "--image", "image", "--patient", "patient", "--view", "view", "--split", "split", "--boxes", "boxes",
        "--observations", *OBSERVATIONS,
    ])
    if status:
        raise UserError(f"{folder} could not be prepared: see the message above")
    return out


def read_reference(films: Path, split: str) -> Reference:
    """Read the labels and patients of a split of the prepared images."""
    records = list(read_records(films, split))
    names = list(dict.fromkeys(text.partition("=")[0] for text in OBSERVATIONS))
    values = [[record["observations"].get(name) for name in names] for record in records]
    patients = [record["id"].partition("_")[0] for record in records]
    return Reference(
        [record["id"] for record in records], names, np.array([[value == 1 for value in row] for row in values]),
        np.array([[value is not None for value in row] for row in values]),
        np.unique(patients, return_inverse=True)[1],
    )


def _train_and_test(options: argparse.Namespace, films: Path, arm: str, base: str, seed: int) -> Path:
    """Train and test a run that is not finished; return its folder, with predictions_val.jsonl.

    base   the arm whose trunk it has; another one for the mixed arm only
    """
    side = _LARGE if base == IMAGENET_LARGE else 128
    common = [*_trunk_settings(options.results, base), *COMMON, f"data.image_size={side}"]
    start = []
    if base == PHANTOM_SMALL:
        settings = [f"data.root={_phantoms(options, side)}", *common, *_PHANTOMS_FIRST, *options.overrides]
        start = [f"train.init_from={_train(options.results, 'phantoms', seed, settings)}"]
    settings = [f"data.root={films}", *common]
    if arm == MIXED:
        settings = [f"data.root=[{films},{_phantoms(options, side)}]", *common, *_PHANTOMS_MIXED_IN]
    folder = _train(options.results, arm, seed, [*start, *settings, *options.overrides])
    if not (folder / "predictions_val.jsonl").is_file():
        run_script(folder, [
            "main_test.py", "--checkpoint", str(folder), "--split", "val", "--data", str(films), "--out", str(folder),
            "--graph", "predicted", "--baselines", "none", "--workers", "1",
        ])
    return folder


def _trunk_settings(results: Path, arm: str) -> list[str]:
    """Return the settings of the trunk of an arm; the file of ImageNet weights is written if absent."""
    if arm in (FRESH_SMALL, PHANTOM_SMALL):
        return [*_SMALL, *_FRESH]
    if arm == FRESH_EFFICIENT:
        return [*_EFFICIENT, *_FRESH, "optim.lr_patch_encoder=1e-3"]
    file = results / "efficientnet_lite0.safetensors"
    if not file.is_file():
        write_weights(file)
    return [
        *_EFFICIENT, f"model.patch_encoder.weights={file}", "optim.lr_patch_encoder=3e-4",
        f"train.freeze=[{_FIRST_LAYERS}]",
    ]


def _phantoms(options: argparse.Namespace, side: int) -> Path:
    """Return the folder of the phantoms with images of `side` pixels, which are simulated if absent."""
    folder = options.results / f"phantom_{options.phantoms}_{side}"
    prepare_phantom(folder, PhantomSettings(studies=options.phantoms, image_size=side))
    return folder


def _train(results: Path, name: str, seed: int, settings: Sequence[str]) -> Path:
    """Train a run unless it is finished, resuming an interrupted one; return its folder."""
    digest = hashlib.sha256("\n".join(settings).encode()).hexdigest()[:6]
    title = "".join(character if character.isalnum() else "_" for character in name)
    folder = results / f"{title}_{digest}_seed{seed}"
    if not (folder / "finished").is_file():
        run_script(folder, [
            "main_train.py", "--config", "configs/nih_cxr14.yaml", f"name={folder.name}", f"results={results}",
            f"seed={seed}", "train.resume=true", *settings,
        ])
        (folder / "finished").touch()
    return folder


def read_probabilities(path: Path, reference: Reference) -> NDArray:
    """Read the probabilities of the observations, [studies, observations] in the order of `reference`."""
    with path.open(encoding="utf-8") as file:
        by_id = {entry["id"]: entry["observations"] for entry in map(json.loads, file)}
    return np.array([[by_id[study][name] for name in reference.names] for study in reference.ids], dtype=float)


def score(probabilities: NDArray, reference: Reference) -> tuple[float, NDArray]:
    """Return the mean AUROC of the frequent findings, and its values for resampled patients [draws]."""
    scores = ScoreSet({"auroc": macro_auroc(probabilities, reference.labels, reference.known, FREQUENT)})
    result = scores.evaluate(len(reference.ids), units=reference.patients)
    if result.scores["auroc"] is None or "auroc" not in result.resampled:
        raise UserError(f"The AUROC of this split is undefined: {result.absent.get('auroc', 'too few studies')}")
    return result.scores["auroc"], result.resampled["auroc"]


def _best_arm(finished: Sequence[ScoredRun], reference: Reference) -> str:
    """Return the arm with the highest mean score over its seeds."""
    scores: dict[str, list[float]] = {}
    for each in finished:
        scores.setdefault(each.arm, []).append(score(each.probabilities, reference)[0])
    return max(scores, key=lambda arm: np.mean(scores[arm]))


def summarise(finished: Sequence[ScoredRun], reference: Reference) -> dict:
    """Return the scores of runs and arms, and the differences of pairs of arms, with intervals.

    The score of an arm is the mean over its seeds. A difference is one of means; its interval comes from resampling the
    same patients for both arms.
    """
    scores = {(each.arm, each.seed): score(each.probabilities, reference) for each in finished}
    arms = {}
    for arm in dict.fromkeys(arm for arm, _ in scores):
        of_arm = [value for (name, _), value in scores.items() if name == arm]
        arms[arm] = np.mean([value for value, _ in of_arm]), np.mean([draws for _, draws in of_arm], axis=0)
    counts = (reference.labels & reference.known).sum(0)
    findings = [name for name, count in zip(reference.names, counts, strict=True) if count >= FREQUENT]
    return {
        "studies": len(reference.ids),
        "findings": findings,
        "runs": [{"arm": arm, "seed": seed, "auroc": value} for (arm, seed), (value, _) in scores.items()],
        "arms": {
            arm: {"auroc": float(value), "interval": list(percentile_interval(draws)),
                  "seeds": sum(name == arm for name, _ in scores)}
            for arm, (value, draws) in arms.items()
        },
        "differences": [
            {"arms": [one, other], "auroc": float(arms[one][0] - arms[other][0]),
             "interval": list(percentile_interval(arms[one][1] - arms[other][1]))}
            for one, other in (*PAIRS, *((MIXED, arm) for arm in ARMS[:-1])) if one in arms and other in arms
        ],
    }


def _print_table(summary: dict) -> None:
    """Print the results of the arms and their differences."""
    print(f"{summary['studies']} images; findings: {', '.join(summary['findings'])}")
    for arm, values in summary["arms"].items():
        low, high = values["interval"]
        print(f"{arm:<42} {values['auroc']:.3f} ({low:.3f} to {high:.3f}), {values['seeds']} seeds")
    for each in summary["differences"]:
        low, high = each["interval"]
        print(f"{each['arms'][0]} - {each['arms'][1]}: {each['auroc']:+.3f} ({low:+.3f} to {high:+.3f})")
