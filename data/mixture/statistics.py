"""What training on several data sets starts from: the sums of their counts, and the means of all their boxes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from data.console import Progress
from data.images.atlas import MeanBox
from data.records import MALFORMED_GRAPH, count_studies, is_frontal, malformed_graph, read_records
from data.storage.atomic_files import atomic_file
from data.storage.manifest import MALFORMED_MANIFEST, seal, unseal
from data.storage.statistics import TrainingStatistics, training_statistics

# Increase when the same records give other numbers than before.
VERSION = 1


def joined_statistics(roots: Sequence[str | Path], cleaning: str) -> TrainingStatistics:
    """Return the numbers of the training splits of all prepared data sets in `roots` together.

    Data sets without a training split add nothing; of a single data set, the numbers are exactly its own. Raises
    UserError as `training_statistics` does.
    """
    training = [root for root in roots if len(roots) == 1 or count_studies(root)["train"]] or list(roots)
    parts = [training_statistics(root, cleaning) for root in training]
    if len(parts) == 1:
        return parts[0]
    return TrainingStatistics(
        words=_sum(part.words for part in parts),
        attributes=_sum_by_region(part.attributes for part in parts),
        annotated=_sum(part.annotated for part in parts),
        positives=_sum_by_region(part.positives for part in parts),
        mean_boxes=_mean_boxes([
            (part.mean_boxes, count_boxes(root)) for root, part in zip(training, parts, strict=True) if part.mean_boxes
        ]),
    )


def count_boxes(root: str | Path) -> dict[str, int]:
    """Return the number of boxes of each region in a training split; regions without a box are left out.

    They are counted at the first call and stored in the folder of the index, if it can be written. Raises UserError as
    `read_records` does, and for a malformed graph.
    """
    records = read_records(root, "train")
    file = None if records.offsets_file is None else records.offsets_file.parent / f"boxes.v{VERSION}.json"
    if file is not None:
        with suppress(OSError, *MALFORMED_MANIFEST):
            return {name: int(count) for name, count in unseal(file.read_bytes())["counts"].items()}
    boxes: dict[str, MeanBox] = {}
    with closing(Progress(f"Counting boxes of {root}", "records", len(records))) as progress:
        for record in records:
            if record["graph"] is not None and is_frontal(record):
                try:
                    for name, region in record["graph"]["regions"].items():
                        if region["box"] is not None:
                            boxes.setdefault(name, MeanBox()).add(region["box"])
                except MALFORMED_GRAPH as error:
                    raise malformed_graph(record, error) from error
            progress.advance(1)
    counts = {name: box.count for name, box in boxes.items() if box.count}
    if file is not None:
        with suppress(OSError), atomic_file(file) as output:  # counted again at the next start
            output.write(seal({"counts": counts}))
    return counts


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum(map(Counter, counts), Counter()))


def _sum_by_region(counts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    sums: dict[str, Counter] = {}
    for part in counts:
        for region, numbers in part.items():
            sums.setdefault(region, Counter()).update(numbers)
    return {region: dict(numbers) for region, numbers in sums.items()}


def _mean_boxes(
    parts: Sequence[tuple[Mapping[str, Sequence[float]], Mapping[str, int]]]
) -> dict[str, tuple[float, ...]]:
    """Return the mean box of each region over all data sets; parts: mean boxes and numbers of boxes of each."""
    totals = _sum(counts for _, counts in parts)
    return {
        region: tuple(
            sum(np.array(means[region]) * counts[region] / total for means, counts in parts if region in means)
            .round(6).tolist()
        )
        for region, total in totals.items()
    }
