"""Finds the prior of each study: the latest earlier study of the same patient in the same split, with a frontal image.

Where samples are images, the images of one study share patient and time, so none of them is the prior of another.
"""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from data.records import is_frontal
from data.storage.atomic_files import atomic_file

# Of several frontal images of the earlier study, that of the same view is used, else the first of these.
_VIEW_ORDER = {"PA": 0, "AP": 1}


def link_priors(dataset: Path, warnings: Counter) -> int:
    """Fill in the `prior` of the records in the folder `dataset` where patient and time are known; return how many.

    Priors that the source states are kept, but those that are not in the data set are replaced and counted in
    `warnings`. Comparisons of regions with images outside the data set lose the image (`compared_with`). Records
    without any of these stay as they are, to the byte.
    """
    path = dataset / "records.jsonl"
    studies, ids = _read_studies(path)
    priors = dict(_find_priors(studies))
    linked = 0
    with path.open("rb") as lines, atomic_file(path) as file:
        for line in lines:
            record = json.loads(line)
            stated = record["prior"] if record["prior"] in ids else None
            warnings.update(["prior not in the data set"] * (stated != record["prior"]))
            prior = stated or priors.get((record["split"], record["id"]))
            changed = prior != record["prior"]
            record["prior"] = prior
            linked += prior is not None
            for region in record["graph"]["regions"].values() if record["graph"] is not None else ():
                if region.get("compared_with") is not None and region["compared_with"] not in ids:
                    region["compared_with"], changed = None, True
            file.write(json.dumps(record).encode() + b"\n" if changed else line)
    return linked


# Split and patient -> time, rank of the view, view and id of each of the patient's samples with a frontal image first.
_Studies = dict[tuple[str, str], list[tuple[str, int, str, str]]]


def _read_studies(path: Path) -> tuple[_Studies, set[str]]:
    """Return the studies whose patient and time are known, by patient, and the ids of all records."""
    studies: _Studies = defaultdict(list)
    ids = set()
    with path.open("rb") as lines:
        for line in lines:
            record = json.loads(line)
            ids.add(record["id"])
            if record["patient"] is None or record["taken"] is None:
                continue
            view = record["views"][0] or ""
            rank = _VIEW_ORDER.get(view, len(_VIEW_ORDER)) if is_frontal(record) else -1
            studies[record["split"], record["patient"]].append((record["taken"], rank, view, record["id"]))
    return studies, ids


def _find_priors(studies: _Studies) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield split and id of each study that has a prior, with the id of that prior."""
    for (split, _), samples in studies.items():
        frontal: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
        for taken, rank, view, study_id in samples:
            if rank >= 0:
                frontal[taken].append((rank, view, study_id))
        times = sorted(frontal)
        for taken, _, view, study_id in samples:
            earlier = bisect_left(times, taken)
            if earlier:
                candidates = frontal[times[earlier - 1]]
                yield (split, study_id), min(candidates, key=lambda each: (each[1] != view, each[0], each[2]))[2]
