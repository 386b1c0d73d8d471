"""Access to the Hugging Face hub, which timm and transformers download from."""

from collections.abc import Sequence
from pathlib import Path

# Names of files of weights in a repository, the preferred one first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

_TIMEOUT = 10.0  # seconds


def hub_answers() -> bool:
    """Whether the hub can be reached. Asked once before a download: its client retries for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # the errors of the HTTP client depend on its version
        return False
    return True


def out_of_reach(backbone: str, what: str) -> ConnectionError:
    """Return the error for `what` of `backbone` that is neither on this machine nor can be downloaded."""
    return ConnectionError(
        f"Cannot fetch {what} of {backbone}: the Hugging Face hub is out of reach. Connect to the internet once, or "
        "use a downloaded folder (hf:FOLDER) or file (model.patch_encoder.weights=FILE)"
    )


def damaged_in_cache(file: str | Path, error: Exception) -> ValueError:
    """Return the error for a downloaded `file` that cannot be read: another download helps, a connection alone not."""
    first_line = (str(error).splitlines() or [""])[0]
    return ValueError(
        f"{file} is damaged ({type(error).__name__}: {first_line[:120]}): delete it, and it is downloaded again"
    )


def find_downloaded(repository: str | None, names: Sequence[str], revision: str | None = None) -> str | None:
    """Return the first of the files `names` of a repository that is in the hub's cache; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = [try_to_load_from_cache(repository, name, revision=revision) for name in names if repository]
    except ValueError:  # not the name of a repository
        return None
    return next((file for file in cached if isinstance(file, str)), None)
