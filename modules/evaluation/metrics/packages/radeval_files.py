"""The files that RadEval's metrics load, and where it looks for them.

The package downloads what it does not find. Without a network that takes minutes and ends in a message about the
network, so the files are looked for first: see `check_files`.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError

_SECONDS_TO_REACH_HUB = 5
# Any one of the files of a line is enough.
_CONFIGURATION = ("config.json",)
_WEIGHTS = (
    "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json",
)
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spm.model")
_MODEL = (_CONFIGURATION, _WEIGHTS, _TOKENIZER)
_SCORERS = "StanfordAIMI/RRG_scorers"
_SRRBERT_MODELS = {
    "leaves": "StanfordAIMI/SRR-BERT-Leaves", "upper": "StanfordAIMI/SRR-BERT-Upper",
    "leaves_with_statuses": "StanfordAIMI/SRR-BERT-Leaves-with-Statuses",
    "upper_with_statuses": "StanfordAIMI/SRRG-BERT-Upper-with-Statuses",
}


@dataclass(frozen=True)
class WeightFile:
    """A file that a metric loads.

    name     the file, or the first of several of which one is enough
    origin   where it is published
    found    whether it is there
    fix      how to put it there
    """

    name: str
    origin: str
    found: bool
    fix: str


def check_files(metrics: Mapping[str, Mapping[str, Any]], python: Path) -> bool:
    """Return whether all files of the `metrics` (with their options) are there, so that no network is needed.

    python   of the environment that has the package

    Raises UserError if a file is missing and the hub cannot be reached.
    """
    missing = [
        (metric, file)
        for metric, options in metrics.items() for file in weight_files(metric, options, python) if not file.found
    ]
    if missing and not _reach_hub():
        metric, file = missing[0]
        more = f" (and {len(missing) - 1} more files)" if len(missing) > 1 else ""
        raise UserError(
            f"RadEval's {metric} needs {file.name}{more} from {file.origin}, which cannot be reached: {file.fix}"
        )
    return not missing


def weight_files(metric: str, options: Mapping[str, Any], python: Path) -> Iterator[WeightFile]:
    """Yield the files that `metric` loads; nothing for a metric without weights, or whose files are not known."""
    chexbert = (
        *_hub_files("bert-base-uncased", (_CONFIGURATION, _TOKENIZER)),
        *_hub_files(_SCORERS, (("chexbert.pth",),), _user_cache() / "chexbert"),
    )
    if metric == "bertscore":
        yield from _hub_files(options.get("model_type", "distilbert-base-uncased"))
    elif metric == "radeval_bertscore":
        yield from _hub_files(options.get("model_type", "IAMJB/RadEvalModernBERT"))
    elif metric == "f1chexbert":
        yield from chexbert
    elif metric == "f1radbert_ct":
        yield from _hub_files(options.get("model_id", "IAMJB/RadBERT-CT"))
    elif metric in ("radgraph", "radgraph_radcliq"):
        default = "radgraph-xl" if metric == "radgraph" else "radgraph"
        yield from _radgraph_files(options.get("model_type", default), options.get("model_cache_dir"))
    elif metric == "radcliq":
        yield from (*_radgraph_files("radgraph"), *chexbert, *_hub_files("distilroberta-base"))
    elif metric == "ratescore":
        yield from _hub_files(options.get("bert_model", "Angelakeke/RaTE-NER-Deberta"))
        yield from _hub_files(options.get("eval_model", "FremyCompany/BioLORD-2023-C"))
    elif metric == "srrbert":
        yield from _hub_files(
            _SRRBERT_MODELS.get(options.get("model_type"), _SRRBERT_MODELS["leaves_with_statuses"]),
            (_CONFIGURATION, _WEIGHTS),
        )
        yield from _hub_files("microsoft/BiomedVLP-CXR-BERT-general", (_TOKENIZER,))
        yield _sentence_splitter(python)
    elif metric == "green":
        yield from _hub_files(options.get("model_name", "StanfordAIMI/GREEN-radllama2-7b"))
    elif metric == "crimson" and options.get("provider", "hf") == "hf":
        cache = options.get("cache_dir")
        model = options.get("model_name") or "rajpurkarlab/medgemma-4b-it-crimson"
        yield from _hub_files(model, cache=None if cache is None else Path(cache))


def _hub_files(
    repository: str, files: Sequence[Sequence[str]] = _MODEL, cache: Path | None = None
) -> Iterator[WeightFile]:
    """The `files` of a repository in a cache of huggingface_hub; a folder in place of a repository has them itself."""
    if Path(repository).is_dir():
        return
    cache = hub_cache() if cache is None else cache
    folder = cache / f"models--{repository.replace('/', '--')}"
    fix = f"run 'hf download {repository} --cache-dir {cache}' where it can, and copy {folder} here"
    for names in files:
        found = any(next(folder.glob(f"snapshots/*/{name}"), None) is not None for name in names)
        yield WeightFile(names[0], f"huggingface.co/{repository}", found, fix)


def _radgraph_files(model: str, folder: str | None = None) -> Iterator[WeightFile]:
    """The unpacked archive of a RadGraph model, and the files of its encoder."""
    unpacked = (_user_cache() / "radgraph" / "0.1.18" if folder is None else Path(folder)) / model
    fix = f"unpack {model}.tar.gz of that repository into {unpacked}"
    for name in ("config.json", "weights.th"):
        yield WeightFile(f"{model}/{name}", f"huggingface.co/{_SCORERS}", (unpacked / name).is_file(), fix)
    try:
        config = json.loads((unpacked / "config.json").read_text(encoding="utf-8"))
        encoder = config["model"]["embedder"]["token_embedders"]["bert"]["model_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # the package says what is wrong with its files
    yield from _hub_files(encoder, (_CONFIGURATION, _TOKENIZER))


def _sentence_splitter(python: Path) -> WeightFile:
    """The data of NLTK's sentence splitter."""
    prefix = python.parent.parent
    folders = [
        *(Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder),
        Path.home() / "nltk_data", *(prefix / name for name in ("nltk_data", "share/nltk_data", "lib/nltk_data")),
        *(Path(root) / "nltk_data" for root in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")),
    ]
    found = any((folder / "tokenizers/punkt_tab/english").is_dir() for folder in folders)
    fix = f"unzip tokenizers/punkt_tab.zip of that repository into {folders[0] / 'tokenizers'}"
    return WeightFile("punkt_tab.zip", "github.com/nltk/nltk_data", found, fix)


def hub_cache() -> Path:
    """Return the folder in which huggingface_hub keeps repositories."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    return Path(os.environ.get("HF_HOME", _user_cache() / "huggingface")) / "hub"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _reach_hub() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=_SECONDS_TO_REACH_HUB):
            return True
    except urllib.error.HTTPError:
        return True  # an answer, whatever it says
    except (OSError, ValueError):
        return False
