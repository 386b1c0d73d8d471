"""Counts over training splits that few models need: words of indications and of impressions, and changes of regions.

They are counted at the first call, and stored in the folder of the index if it can be written.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from data.console import Progress
from data.ontology import CHANGES
from data.records import count_studies, read_records
from data.storage.atomic_files import atomic_file
from data.storage.manifest import MALFORMED_MANIFEST, seal, unseal
from data.text.cleaning import clean

# Increase when the same records give other numbers than before.
VERSION = 1


def count_indication_words(roots: Sequence[str | Path], cleaning: str) -> Counter:
    """Return how often each word occurs in the cleaned indications of the training splits of all `roots`.

    Raises UserError as `read_records` does.
    """
    return _count(
        roots, f"indications-{cleaning}", "words of indications",
        lambda record: clean(record.get("indication") or "", cleaning).split(),
    )


def count_impression_words(roots: Sequence[str | Path], cleaning: str) -> Counter:
    """Return how often each word occurs in the cleaned impressions of the training splits of all `roots`.

    Raises UserError as `read_records` does.
    """
    return _count(
        roots, f"impressions-{cleaning}", "words of impressions",
        lambda record: clean(record.get("impression") or "", cleaning).split(),
    )


def count_changes(roots: Sequence[str | Path]) -> list[int]:
    """Return how often each of `data.ontology.CHANGES` occurs in studies with a prior of the training splits.

    Raises UserError as `read_records` does.
    """
    counts = _count(roots, "changes", "changes of regions", _changes_of)
    return [counts[change] for change in CHANGES]


def _changes_of(record: dict) -> list[str]:
    if record.get("prior") is None or record["graph"] is None:
        return []
    changes = (region.get("change") for region in record["graph"]["regions"].values())
    return [change for change in changes if change in CHANGES]


def _count(
    roots: Sequence[str | Path], name: str, title: str, items_of: Callable[[dict], Sequence[str]]
) -> Counter:
    """Return the number of each item in the records of the training splits."""
    training = [root for root in roots if len(roots) == 1 or count_studies(root)["train"]]
    return sum((_count_split(root, name, title, items_of) for root in training), Counter())


def _count_split(root: str | Path, name: str, title: str, items_of: Callable[[dict], Sequence[str]]) -> Counter:
    records = read_records(root, "train")
    file = records.offsets_file and records.offsets_file.parent / f"{name}.v{VERSION}.json"
    if file is not None:
        with suppress(OSError, *MALFORMED_MANIFEST):
            return Counter(unseal(file.read_bytes())["counts"])
    counts: Counter = Counter()
    with closing(Progress(f"Counting {title} of {root}", "records", len(records))) as progress:
        for record in records:
            counts.update(items_of(record))
            progress.advance(1)
    if file is not None:
        with suppress(OSError), atomic_file(file) as output:  # counted again at the next start
            output.write(seal({"counts": counts}))
    return counts
