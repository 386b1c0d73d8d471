"""Tunes the thresholds of regions and attributes of a checkpoint on the validation split, and stores them in it.

    python -m modules.calibrate --checkpoint results/demo [data.root=PREPARED] [key=value ...]

Writes thresholds.json into the checkpoint; whatever loads the checkpoint uses them, unless eval.thresholds=default.
`modules/evaluation/threshold_tuning.py` says how they are tuned. With train.tune_thresholds=true, training ends with
this.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from data.console import run_command
from data.errors import UserError
from data.loaders import evaluation_loader
from data.vocabulary import Vocabularies
from modules.builders import build_dataset, load_model
from modules.checkpoint import EXPORTED_WEIGHTS, THRESHOLDS, Thresholds, load_checkpoint, save_thresholds
from modules.config import Config
from modules.evaluation.results_writer import dataset_name
from modules.evaluation.threshold_tuning import Tuning, collect_probabilities, tune_graph_thresholds
from modules.runtime import select_device


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 1 after a one-line message on stderr about an error that the user can fix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings, e.g. eval.box_source=atlas")
    options = parser.parse_intermixed_args(arguments)
    try:
        print(calibrate(options.checkpoint, options.overrides))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def calibrate_after_training(config: Config) -> None:
    """Tune the thresholds of the best checkpoint of a finished run; a failure is reported, and leaves it as it is."""
    try:
        print(calibrate(config.run_dir))
    except UserError as error:
        print(f"Warning: the thresholds were not tuned. {error}", file=sys.stderr)


def calibrate(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """Tune the thresholds of the checkpoint at `path` and store them there. Return what was done, as text.

    Raises UserError for an unusable checkpoint or data set, a model without a scene graph, and a validation split that
    is the test split.
    """
    checkpoint = load_checkpoint(path)
    checkpoint.check_writes_reports()
    directory = checkpoint.directory
    config = checkpoint.load_config([*overrides, "eval.thresholds=default"])
    split = config.eval.split or "val"
    if split == "test":
        raise UserError("eval.split=test: thresholds tuned on the test split would make its scores too good; use val")
    if (directory / EXPORTED_WEIGHTS).is_file():
        raise UserError(f"{directory} is an exported model, whose programs have their thresholds built in: tune those "
                        "of the checkpoint, and export it again")
    device = select_device(config.train.device)
    model = load_model(checkpoint, config).to(device)
    if model.graph is None:
        raise UserError(f"{directory} has no scene graph (model.graph_in=none), so there are no thresholds to tune")
    dataset = build_dataset(config, checkpoint.vocabularies, "val")
    loader = evaluation_loader(
        dataset, config.eval.batch_size, config.data.workers, rank=0, world_size=1,
        pad_id=checkpoint.vocabularies.tokenizer.pad_id, pin_memory=device.type == "cuda",
        most_skipped=config.data.most_skipped,
    )
    predicted = collect_probabilities(model, loader, config.eval.box_source, config.train.precision, device)
    defaults = (model.graph.region_thresholds.cpu().numpy(), model.graph.attribute_thresholds.cpu().numpy())
    regions, attributes = tune_graph_thresholds(predicted, *defaults)
    origin = {
        "dataset": ", ".join(map(dataset_name, config.data.roots)), "split": split, "studies": len(predicted.regions),
        "box_source": config.eval.box_source.value,
    }
    save_thresholds(directory, name_thresholds(regions, attributes, checkpoint.vocabularies, origin))
    return "\n".join([
        f"{origin['dataset']}, split {split}, {origin['studies']} studies with an annotated graph, boxes "
        f"{origin['box_source']}",
        describe_tuning("regions", regions), describe_tuning("attributes", attributes),
        f"written: {directory / THRESHOLDS}",
    ])


def name_thresholds(
    regions: Tuning, attributes: Tuning, vocabularies: Vocabularies, origin: dict[str, Any]
) -> Thresholds:
    """The tuned ones of the thresholds, by the names of regions and attributes."""
    names = vocabularies.anatomy.names

    def select(values: NDArray, tuned: NDArray, labels: Sequence[str]) -> dict[str, float]:
        return {
            label: round(float(value), 6)
            for label, value, is_tuned in zip(labels, values, tuned, strict=False) if is_tuned
        }

    by_region = {
        name: select(attributes.thresholds[region], attributes.tuned[region], vocabularies.attributes.by_region[region])
        for region, name in enumerate(names)
    }
    scores = {
        kind: {"default_f1": tuning.default_f1, "tuned_f1": tuning.tuned_f1}
        for kind, tuning in (("regions", regions), ("attributes", attributes))
    }
    return Thresholds(
        select(regions.thresholds, regions.tuned, names), {name: each for name, each in by_region.items() if each},
        origin | scores,
    )


def describe_tuning(kind: str, tuning: Tuning) -> str:
    """One line about the thresholds of "regions" or "attributes"."""
    scores = f"micro-F1 {tuning.tuned_f1:.3f} instead of {tuning.default_f1:.3f} on studies not tuned on"
    if not tuning.tuned.any():
        return f"{kind}: the default thresholds remain ({scores})"
    return f"{kind}: {int(tuning.tuned.sum())} thresholds tuned ({scores})"


if __name__ == "__main__":
    sys.exit(run_command(main))
