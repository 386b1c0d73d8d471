"""The interface of experiment trackers, and the ids under which they know a run.

The ids are in tracking.json of the run folder, {tracker: id}. With them a resumed run continues its record, and a test
adds its results to it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from data.errors import cannot_read
from data.storage.atomic_files import atomic_file

IDS = "tracking.json"


class TrackingError(Exception):
    """A tracker cannot record, for example because its server does not answer; the message is one line."""


class Tracker(Protocol):
    """Records one run somewhere. The configuration is recorded when the tracker is opened."""

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record finite or infinite numbers by name at an optimiser step. Raises TrackingError if that fails."""

    def log_results(self, scores: Mapping[str, float], page: Path) -> None:
        """Record the scores of a test and its page, an HTML file. Raises TrackingError if that fails."""

    def close(self) -> None:
        """Write what is not written yet. Raises TrackingError if that fails."""


def read_ids(run_dir: Path) -> dict[str, str]:
    """Return the ids of a run by tracker; empty if it has none. Raises UserError for a damaged file."""
    path = run_dir / IDS
    if not path.is_file():
        return {}
    try:
        return {str(name): str(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise cannot_read(path, error, "delete it: the run is then recorded as a new one") from error


def save_id(run_dir: Path, tracker: str, value: str) -> None:
    """Store the id of a run. Raises OSError if that fails."""
    ids = read_ids(run_dir) | {tracker: value}
    with atomic_file(run_dir / IDS) as file:
        file.write(json.dumps(ids, indent=2).encode() + b"\n")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
