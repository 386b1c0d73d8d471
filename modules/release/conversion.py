"""Converts a checkpoint file of the published SGRRG release to a checkpoint folder of this repository."""

import json
import re
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError, cannot_read, damaged, missing, truncate_list, wrong_format
from data.ontology import Anatomy, observation_names
from data.text.cleaning import clean
from data.text.tokenizer import UNKNOWN_WORD, Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.outputs import BoxSource
from models.trunks.torch_archive import check_torch_file
from modules.builders import build_model
from modules.checkpoint import check_replaceable, save_checkpoint
from modules.config import Config, load_config
from modules.release.published_weights import TRUNK_PREFIX, from_official, to_official
from modules.settings.model import ModelConfig

# NumPy numbers, in which the release may have saved a score or an epoch: their types, and their constructor under its
# current name and that of NumPy 1.
_NUMPY_NUMBERS = [
    np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd"), np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
]
# Settings of `Config.model` whose weights are in no release checkpoint -> why.
_UNSUPPORTED_SETTINGS = {
    ("localizer", True): "train one on the converted checkpoint, by train.init_from",
    ("share_attribute_names", True): "its attributes share nothing",
    ("gate", True): "its gate has no effect",
    ("fuse", "concat"): "its formula differs (docs/differences.md)",
    ("sentence_attention", "hierarchical"): "its formula differs (docs/differences.md)",
}

# Parts of the R2Gen family, which the release does not have.
_FAMILY_SETTINGS = (
    "norm", "activation", "patch_projection", "patch_positions", "discriminative_map", "decoder.norms",
    "cross_modal_memory.rows", "prototypes.per_observation",
)


def convert(file: Path, vocabulary: Path, out: Path, overrides: list[str]) -> list[str]:
    """Convert the release checkpoint `file` to the checkpoint folder `out`; returns the published names not used.

    vocabulary  the annotation.json of its training (words are counted as in the release), or a JSON list of its words
                in the order of their ids, starting at 1, or a dictionary word -> id
    overrides   key=value for settings that the weights do not determine (model.encode=oa-pm, model.heads, ...)

    Raises UserError with published names and shapes if sizes disagree, and if `out` contains anything but the result of
    an earlier conversion.
    """
    out = out.resolve()  # "." has no name for the partial folder beside it
    check_replaceable(out)
    official = _read_release(file)
    config = _infer_config(official, file, overrides)
    vocabularies = Vocabularies(
        Anatomy.load(), _infer_attributes(official, file), observation_names(), _read_tokenizer(vocabulary, config)
    )
    ids = _row_count(official, "word_embedding.word_embedding.lut.weight", file)
    if len(vocabularies.tokenizer) != ids:
        raise UserError(
            f"{vocabulary} gives {len(vocabularies.tokenizer)} ids, but {file} was trained with {ids}: give the "
            "annotation of its training split, or its list of words"
        )
    model = build_model(config, vocabularies)
    sizes = list(vocabularies.attributes.sizes)
    _check_shapes(official, to_official(model.state_dict(), sizes), file)
    weights, unused = from_official(official, list(model.state_dict()), sizes)
    absent, unexpected = model.load_state_dict(weights, strict=False)
    random = [name for name in absent if name != "graph.atlas" and not name.endswith("relative_position_index")]
    assert not unexpected and not random, f"weights of the converted model are left random: {random}"
    save_checkpoint(out, model, config, vocabularies, place="--out")
    return unused


def _read_release(file: Path) -> dict[str, Tensor]:
    """Read the state dict without executing any code in the file, and strip the prefix of DistributedDataParallel.

    Raises UserError unless it is a dictionary of plain tensors with the weights that every release model has.
    """
    if not file.is_file():
        raise missing("checkpoint", file, "give the downloaded .pth file of the release")
    try:
        with file.open("rb") as opened, torch.serialization.safe_globals(_NUMPY_NUMBERS):
            check_torch_file(opened)
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile archive may raise anything
        unsafe_type = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe_type:
            raise UserError(
                f"{file} cannot be read as weights alone: it holds a {unsafe_type[1]}, which could execute code. If "
                "you trust the file, load it with torch and save only {'state_dict': ...} of it"
            ) from error
        raise UserError(
            f"{file} cannot be read as weights alone ({type(error).__name__}): it is damaged or not a .pth file; "
            "download it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise _not_a_release(file, "it has no state_dict")
    state = {}
    for name, value in content["state_dict"].items():
        if not isinstance(name, str):
            raise _not_a_release(file, f"it calls a weight {name!r}")
        if not (isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"):
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise _not_a_release(file, f"it holds {name} as {kind}, not as a plain tensor")
        state[name.removeprefix("module.")] = value
    if TRUNK_PREFIX + "norm.weight" not in state:
        raise _not_a_release(file, f"it lacks {TRUNK_PREFIX}norm.weight of the Swin trunk")
    return state


def _not_a_release(file: Path, why: str) -> UserError:
    return wrong_format(file, f"a checkpoint of the release ({why})", "give the downloaded .pth file")


def _check_shapes(official: dict[str, Tensor], expected: dict[str, Tensor], file: Path) -> None:
    """Raise UserError naming the published weights whose shapes differ from those in `expected`."""
    wrong = [
        f"{name} is {list(official[name].shape)} there and {list(value.shape)} here"
        for name, value in expected.items()
        if name in official and official[name].shape != value.shape
    ]
    if wrong:
        raise UserError(f"{len(wrong)} weights of {file} have another shape: {truncate_list(wrong, '; ')}")


def _row_count(official: dict[str, Tensor], name: str, file: Path) -> int:
    """The number of rows of the published weight `name`. Raises UserError if it is missing or has no rows."""
    if name not in official:
        raise _not_a_release(file, f"it lacks {name}")
    if not official[name].shape or not len(official[name]):
        raise _not_a_release(file, f"its {name} has no rows")
    return len(official[name])


def _layer_count(official: dict[str, Tensor], prefix: str, file: Path) -> int:
    """The number of layers with published names under `prefix`. Raises UserError if one in between is missing."""
    matches = (re.match(rf"{re.escape(prefix)}([0-9]{{1,6}})\.", name) for name in official)
    numbers = {int(match[1]) for match in matches if match}
    absent = [number for number in range(len(numbers)) if number not in numbers]
    if absent:
        raise damaged(file, f"it has {prefix}{max(numbers)} but no {prefix}{absent[0]}", "download it again")
    return len(numbers)


def _infer_config(official: dict[str, Tensor], file: Path, overrides: list[str]) -> Config:
    """The settings determined by the weights, the release's cleaning and word count, defaults, and `overrides`.

    Raises UserError for settings whose weights the release does not have.
    """
    has_graph = "scene_graph_encoder.proj.weight" in official
    inferred = {
        "name": file.stem,
        "data.cleaning": "mimic_cxr",
        "data.min_word_count": 10,
        "data.distinct_special_tokens": False,
        "model.patch_encoder.backbone": "swin_b",
        "model.patch_encoder.weights": "none",
        "model.patch_encoder.stochastic_depth": 0.1,
        "model.width": _row_count(official, "att_embed.0.weight", file),
        "model.feedforward": _row_count(official, "decoder.layers.0.feed_forward.w_1.weight", file),
        "model.image_layers": _layer_count(official, "vision_encoder.layers.", file),
        "model.decoder_layers": _layer_count(official, "decoder.layers.", file),
        "model.observation_head": "dis_head.disease_head.weight" in official,
        "model.localizer": False,
        "eval.box_source": BoxSource.ATLAS.value,
    }
    if has_graph:
        objects_attend = any(".cross_attn." in name for name in official if name.startswith("scene_graph_encoder."))
        inferred |= {
            "model.graph_layers": _layer_count(official, "scene_graph_encoder.sg_encoder.layers.", file),
            "model.encode": "oa-d" if objects_attend else "oa-c",
            "model.memory": "region_selector.memory" in official,
        }
        if inferred["model.memory"]:
            inferred["model.memory_slots"] = _row_count(official, "region_selector.memory", file)
    else:
        inferred["model.graph_in"] = "none"
    config = load_config(None, [f"{key}={json.dumps(value)}" for key, value in inferred.items()] + overrides)
    for (name, value), why in _UNSUPPORTED_SETTINGS.items():
        if getattr(config.model, name) == value:
            setting = f"model.{name}={str(value).lower()}"
            raise UserError(f"{setting} has no weights in a release checkpoint ({why}): leave it out")
    for name in _FAMILY_SETTINGS:
        value = attrgetter(name)(config.model)
        if value != attrgetter(name)(ModelConfig()):
            raise UserError(f"model.{name}={str(value).lower()}: the release has no such part: leave it out")
    backbone = config.model.patch_encoder.backbone
    if backbone != "swin_b":
        raise UserError(f"model.patch_encoder.backbone={backbone} is not the release's trunk, swin_b: leave it out")
    return config


def _infer_attributes(official: dict[str, Tensor], file: Path) -> AttributeVocabulary:
    """A vocabulary with the published sizes. The release does not name its attributes; they are called region/index."""
    by_region = []
    for position, region in enumerate(Anatomy.load().names):
        head = f"attribute_predictor.attribute_heads.{position}.bias"
        size = _row_count(official, head, file) if head in official else 0
        by_region.append(tuple(f"{region}/{index}" for index in range(size)))
    return AttributeVocabulary(tuple(by_region), "release")


def _read_tokenizer(path: Path, config: Config) -> Tokenizer:
    """The tokenizer of an annotation, or of a list or dictionary of words. Raises UserError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise cannot_read(f"the vocabulary {path}", error, "give a JSON file") from error
    distinct = config.data.distinct_special_tokens
    try:
        if isinstance(content, dict) and isinstance(content.get("train"), list):
            reports = [sample["report"] for sample in content["train"]]
            if not all(isinstance(report, str) for report in reports):
                raise ValueError("a report is not a string")
            cleaned = [clean(report, config.data.cleaning) for report in reports]
            return Tokenizer.from_reports(cleaned, config.data.min_word_count, distinct)
        words = sorted(content, key=content.get) if isinstance(content, dict) else content
        if isinstance(content, dict) and sorted(content.values()) != list(range(1, len(content) + 1)):
            raise ValueError(f"its ids are not 1 to {len(content)}")
        malformed = [word for word in words if not isinstance(word, str) or word.split() != [word]]
        if malformed:
            raise ValueError(f"{repr(malformed[0])[:40]} is not a word")
        return Tokenizer(words, distinct)
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_format(
            path, f"a vocabulary ({error})",
            f"give an annotation with a 'train' list of reports, or the words by id, including {UNKNOWN_WORD}",
        ) from error
