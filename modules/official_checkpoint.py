"""Published weight names of the SGRRG release <-> ours, and a release checkpoint -> one of our checkpoint folders.

    python -m modules.official_checkpoint FILE.pth --vocabulary TRAINING_ANNOTATION.json|TOKENS.json --out DIR

The released state dict keeps one linear head a region and a padding row among its attribute embeddings; ours keeps one
padded tensor of heads and no padding row. Everything else only goes by another name.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from data.ontology import Anatomy, observation_names
from data.text.cleaning import clean
from data.text.tokenizer import UNKNOWN_WORD, Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.outputs import BoxSource
from modules.builders import build_model
from modules.checkpoint import check_replaceable, save_checkpoint, truncate_list
from modules.config import Config, load_config

# Our name -> published name; applied in order, each as a regular expression on the whole name so far.
_RENAMES = (
    (r"^image_encoder\.project\.", "att_embed.0."),
    (r"^image_encoder\.project_norm\.", "att_embed.1."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^decoder\.embedding\.tokens\.", "word_embedding.word_embedding.lut."),
    (r"^decoder\.word_head\.", "rrg_head."),
    (r"^observation_head\.head\.", "dis_head.disease_head."),
    (r"^graph\.selector\.project\.", "region_selector.ff."),
    (r"^graph\.selector\.memory\.slots$", "region_selector.memory"),
    (r"^graph\.selector\.memory\.project\.", "region_selector.mem_proj."),
    (r"^graph\.selector\.memory\.", "region_selector.cmn."),
    (r"^graph\.selector\.fuse\.", "region_selector.fuse_proj.0."),
    (r"^graph\.selector\.head\.", "region_selector.region_head."),
    (r"^graph\.pooler\.project\.", "attribute_predictor.ff.0."),
    (r"^graph\.pooler\.norm\.", "attribute_predictor.ff.1."),
    (r"^graph\.encoder\.project\.", "scene_graph_encoder.proj."),
    (r"^graph\.encoder\.type_embedding\.", "scene_graph_encoder.token_type_embeddings."),
    (r"^graph\.encoder\.attribute_embedding\.", "scene_graph_encoder.att_embedding."),
    (r"^graph\.encoder\.attribute_norm\.", "scene_graph_encoder.att_norm."),
    (r"^graph\.encoder\.", "scene_graph_encoder.sg_encoder."),
    (r"\.self_attention\.attention\.", ".self_attn."),
    (r"\.self_attention\.norm\.", ".sublayer.0.norm."),
    (r"\.object_attention\.attention\.", ".cross_attn."),
    (r"\.object_attention\.norm\.", ".sublayer.1.norm."),
    (r"\.image_norm\.", ".sublayer.1.norm."),
    (r"\.graph_attention\.attention\.", ".cross_attn_sg."),
    (r"\.graph_attention\.norm\.", ".sublayer.2.norm."),
    (r"\.feed_forward\.feed_forward\.expand\.", ".feed_forward.w_1."),
    (r"\.feed_forward\.feed_forward\.contract\.", ".feed_forward.w_2."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)query\.", r"\1linears.0."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)key\.", r"\1linears.1."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)value\.", r"\1linears.2."),
    (r"((?:attn|attn_sg|cmn|image_attention)\.)output\.", r"\1linears.3."),
)

# The trunk: torchvision's Swin numbers stages and the mergings between them in one list.
_TRUNK_RENAMES = (
    (r"^patch_encoder\.trunk\.features\.0\.0\.", "patch_embed.proj."),
    (r"^patch_encoder\.trunk\.features\.0\.2\.", "patch_embed.norm."),
    (r"^patch_encoder\.trunk\.norm\.", "norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
_TRUNK_PREFIX = "visual_extractor.model."
_SWIN = ("patch_encoder.trunk.features.", "patch_encoder.trunk.norm.")
# A score or an epoch may have been saved as a NumPy number: its types by their codes, and its constructor under this
# and under NumPy 1's name.
_PLAIN_NUMBERS = [
    np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd"), np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
]
# Parameters and buffers that the release has nothing for.
_OURS_ALONE = ("graph.localizer.", "graph.atlas")
# Settings of `Config.model` whose weights no release checkpoint holds -> why.
_NOT_IN_THE_RELEASE = {
    ("localizer", True): "train one on the converted checkpoint, by train.init_from",
    ("share_attribute_names", True): "its attributes share nothing",
    ("gate", True): "its gate has no effect",
    ("fuse", "concat"): "its formula is another one (docs/differences.md)",
    ("sentence_attention", "hierarchical"): "its formula is another one (docs/differences.md)",
}


def official_trunk_name(name: str) -> str:
    """The published name of our Swin parameter `name`."""
    for pattern, replacement in _TRUNK_RENAMES:
        name = re.sub(pattern, replacement, name)
    block = re.match(r"^patch_encoder\.trunk\.features\.(\d+)\.(.*)", name)
    if block:
        stage, rest = (int(block[1]) - 1) // 2, block[2]
        name = f"layers.{stage}.blocks.{rest}" if int(block[1]) % 2 else f"layers.{stage}.downsample.{rest}"
    return _TRUNK_PREFIX + name


def official_name(name: str, decoder_has_graph: bool, objects_attend: bool) -> str:
    """The published name of our parameter `name` (attribute heads aside, which have no single one).

    decoder_has_graph  the decoder attends to a graph (its layers then have four parts, else three)
    objects_attend     the graph encoder is `oa-d` (three parts, else two)
    """
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    name = name.replace(".image_attention.", ".cross_attn_img." if decoder_has_graph else ".cross_attn.")
    # The feed-forward norm is the last part of its layer, whose number depends on the parts before it.
    if name.startswith("decoder."):
        last = 3 if decoder_has_graph else 2
    elif name.startswith("scene_graph_encoder."):
        last = 2 if objects_attend else 1
    else:
        last = 1
    return name.replace(".feed_forward.norm.", f".sublayer.{last}.norm.")


def to_official(weights: dict[str, Tensor], attributes_per_region: list[int]) -> dict[str, Tensor]:
    """Our weights (all but the localizer's and the atlas) under their published names and shapes.

    Of the trunk, only a Swin has published names; the others are left out. Raises ValueError for weights that
    attributes share by name (`model.share_attribute_names`), which the published model has not.
    """
    if "graph.attribute_predictor.name_weight" in weights:
        raise ValueError("the published model has no weights for model.share_attribute_names=true")
    decoder_has_graph = any(name.startswith("decoder.layers.0.graph_attention.") for name in weights)
    objects_attend = any(".object_attention." in name for name in weights)
    official: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith(_OURS_ALONE) or name.endswith("relative_position_index"):
            continue
        if name.startswith("patch_encoder."):
            if name.startswith(_SWIN):
                official[official_trunk_name(name)] = value
        elif name.startswith("graph.attribute_predictor."):
            kind = name.rsplit(".", 1)[1]
            for region, size in enumerate(attributes_per_region):
                official[f"attribute_predictor.attribute_heads.{region}.{kind}"] = value[region, :size]
        elif name == "graph.encoder.attribute_embedding.weight":
            padded = torch.cat([value, value.new_zeros(1, value.shape[1])])  # the release's padding row
            official[official_name(name, decoder_has_graph, objects_attend)] = padded
        else:
            official[official_name(name, decoder_has_graph, objects_attend)] = value
    return official


def from_official(
    official: dict[str, Tensor], names: list[str], attributes_per_region: list[int]
) -> tuple[dict[str, Tensor], list[str]]:
    """The published weights under our parameter `names`, and the published names that were not used.

    Names that the release has nothing for (the localizer, the atlas, a trunk that is no Swin) are left out. Raises
    UserError naming the published weight that is missing.
    """
    decoder_has_graph = any(name.startswith("decoder.layers.0.graph_attention.") for name in names)
    objects_attend = any(".object_attention." in name for name in names)
    weights: dict[str, Tensor] = {}
    used: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in official:
            raise UserError(f"The published weights lack {name}: this is no release checkpoint of these settings")
        used.add(name)
        return official[name]

    for name in names:
        if name.startswith(_OURS_ALONE) or name.endswith("relative_position_index"):
            continue
        if name.startswith("patch_encoder."):
            if name.startswith(_SWIN):
                weights[name] = take(official_trunk_name(name))
        elif name.startswith("graph.attribute_predictor."):
            kind = name.rsplit(".", 1)[1]
            heads = [
                take(f"attribute_predictor.attribute_heads.{region}.{kind}")
                for region in range(len(attributes_per_region))
            ]
            weights[name] = torch.nn.utils.rnn.pad_sequence(heads, batch_first=True)
        else:
            value = take(official_name(name, decoder_has_graph, objects_attend))
            weights[name] = value[:-1] if name == "graph.encoder.attribute_embedding.weight" else value
    return weights, sorted(set(official) - used)


# A release checkpoint -> one of our checkpoint folders.


def convert(file: Path, vocabulary: Path, out: Path, overrides: list[str]) -> list[str]:
    """Write the release checkpoint `file` as one of our checkpoint folders; returns the published names it did not use.

    vocabulary  the annotation.json that it was trained on (words are counted as the release does), or a JSON list of
                its words in order of their ids from 1 on, or a dictionary word -> id
    overrides   key=value for what weights do not hold (model.encode=oa-pm, model.heads, ...), on model.md's defaults
    Raises UserError with published names and shapes where sizes disagree, and for an `out` that holds something else
    than the result of an earlier conversion.
    """
    out = out.resolve()  # "." has no name to put another one beside
    check_replaceable(out)
    official = _read_release(file)
    config = _config_of(official, file, overrides)
    vocabularies = Vocabularies(
        Anatomy.load(), _attributes_of(official, file), observation_names(), _read_words(vocabulary, config)
    )
    words = _rows(official, "word_embedding.word_embedding.lut.weight", file)
    if len(vocabularies.tokenizer) != words:
        raise UserError(
            f"{vocabulary} gives {len(vocabularies.tokenizer)} ids, but {file} was trained with {words}: give the "
            "annotation of its own training split, or its list of words"
        )
    model = build_model(config, vocabularies)
    sizes = list(vocabularies.attributes.sizes)
    _check_sizes(official, to_official(model.state_dict(), sizes), file)
    weights, unused = from_official(official, list(model.state_dict()), sizes)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    ours_alone = [name for name in missing if name != "graph.atlas" and not name.endswith("relative_position_index")]
    assert not unexpected and not ours_alone, f"weights of the converted model are left random: {ours_alone}"
    save_checkpoint(out, model, config, vocabularies, place="--out")
    return unused


def _read_release(file: Path) -> dict[str, Tensor]:
    """The state dict of a release checkpoint, read without executing anything; names as under one process.

    Raises UserError for anything but a dictionary of plain tensors with the weights that every release model has.
    """
    if not file.is_file():
        raise UserError(f"No checkpoint at {file}: give the downloaded .pth file of the release")
    try:
        with torch.serialization.safe_globals(_PLAIN_NUMBERS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile archive fails in a dozen ways
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise UserError(
                f"{file} cannot be read as weights alone: it holds a {refused[1]}, which could execute code. Take a "
                "file whose origin you trust, load it with torch yourself, and save {'state_dict': ...} of it alone"
            ) from error
        raise UserError(
            f"{file} cannot be read as weights alone ({type(error).__name__}): it is no .pth file or a damaged one, "
            "download it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{file} has no state_dict: it is no checkpoint of the release")
    state = {}
    for name, value in content["state_dict"].items():
        if not isinstance(name, str):
            raise UserError(f"{file} calls a weight {name!r}: it is no checkpoint of the release")
        if not (isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"):
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{file} holds {name} as {kind}, not as a plain tensor: it is no checkpoint of the release")
        state[name.removeprefix("module.")] = value
    if _TRUNK_PREFIX + "norm.weight" not in state:
        raise UserError(
            f"{file} lacks {_TRUNK_PREFIX}norm.weight: it is no checkpoint of the release with its Swin trunk"
        )
    return state


def _check_sizes(official: dict[str, Tensor], expected: dict[str, Tensor], file: Path) -> None:
    """Raise UserError naming the published weights that are of another size than `expected`."""
    wrong = [
        f"{name} is {list(official[name].shape)} there and {list(value.shape)} here"
        for name, value in expected.items()
        if name in official and official[name].shape != value.shape
    ]
    if wrong:
        raise UserError(f"{len(wrong)} weights of {file} are of another size: {truncate_list(wrong, '; ')}")


def _rows(official: dict[str, Tensor], name: str, file: Path) -> int:
    """How many rows the published weight `name` has. Raises UserError where there is none, or no row."""
    if name not in official:
        raise UserError(f"{file} lacks {name}: it is no checkpoint of the release")
    if not official[name].shape or not len(official[name]):
        raise UserError(f"{name} of {file} has no rows: it is no checkpoint of the release")
    return len(official[name])


def _layers(official: dict[str, Tensor], prefix: str, file: Path) -> int:
    """How many layers the published names have under `prefix`. Raises UserError where one between them is missing."""
    numbered = (re.match(rf"{re.escape(prefix)}([0-9]{{1,6}})\.", name) for name in official)
    found = {int(match[1]) for match in numbered if match}
    missing = [number for number in range(len(found)) if number not in found]
    if missing:
        raise UserError(f"{file} has {prefix}{max(found)} but no {prefix}{missing[0]}: it is damaged")
    return len(found)


def _config_of(official: dict[str, Tensor], file: Path, overrides: list[str]) -> Config:
    """The settings that the weights show; the rest by default, the release's lengths and cleaning, or `overrides`.

    Raises UserError for settings with weights that the release has not.
    """
    has_graph = "scene_graph_encoder.proj.weight" in official
    seen = {
        "name": file.stem,
        "data.cleaning": "mimic_cxr",
        "data.min_word_count": 10,
        "data.distinct_special_tokens": False,
        "model.patch_encoder.backbone": "swin_b",
        "model.patch_encoder.weights": "none",
        "model.width": _rows(official, "att_embed.0.weight", file),
        "model.feedforward": _rows(official, "decoder.layers.0.feed_forward.w_1.weight", file),
        "model.image_layers": _layers(official, "vision_encoder.layers.", file),
        "model.decoder_layers": _layers(official, "decoder.layers.", file),
        "model.observation_head": "dis_head.disease_head.weight" in official,
        "model.localizer": False,
        "eval.box_source": BoxSource.ATLAS.value,
    }
    if has_graph:
        objects_attend = any(".cross_attn." in name for name in official if name.startswith("scene_graph_encoder."))
        seen |= {
            "model.graph_layers": _layers(official, "scene_graph_encoder.sg_encoder.layers.", file),
            "model.encode": "oa-d" if objects_attend else "oa-c",
            "model.memory": "region_selector.memory" in official,
        }
        if seen["model.memory"]:
            seen["model.memory_slots"] = _rows(official, "region_selector.memory", file)
    else:
        seen["model.graph_in"] = "none"
    config = load_config(None, [f"{key}={json.dumps(value)}" for key, value in seen.items()] + overrides)
    for (name, value), reason in _NOT_IN_THE_RELEASE.items():
        if getattr(config.model, name) == value:
            setting = f"model.{name}={str(value).lower()}"
            raise UserError(f"{setting} has no weights in a release checkpoint ({reason}): leave it out")
    backbone = config.model.patch_encoder.backbone
    if backbone != "swin_b":
        raise UserError(f"model.patch_encoder.backbone={backbone} is not the release's trunk, swin_b: leave it out")
    return config


def _attributes_of(official: dict[str, Tensor], file: Path) -> AttributeVocabulary:
    """A vocabulary of the published sizes. The release does not name its attributes: they are called region/id."""
    regions = Anatomy.load().names
    by_region = []
    for position, region in enumerate(regions):
        head = f"attribute_predictor.attribute_heads.{position}.bias"
        size = _rows(official, head, file) if head in official else 0
        by_region.append(tuple(f"{region}/{index}" for index in range(size)))
    return AttributeVocabulary(tuple(by_region), "release")


def _read_words(path: Path, config: Config) -> Tokenizer:
    """The tokenizer of an annotation, or of a list or dictionary of words."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"Cannot read the vocabulary {path} ({type(error).__name__}): give JSON") from error
    distinct = config.data.distinct_special_tokens
    try:
        if isinstance(content, dict) and isinstance(content.get("train"), list):
            reports = [sample["report"] for sample in content["train"]]
            if not all(isinstance(report, str) for report in reports):
                raise ValueError("a report is no text")
            cleaned = [clean(report, config.data.cleaning) for report in reports]
            return Tokenizer.from_reports(cleaned, config.data.min_word_count, distinct)
        words = sorted(content, key=content.get) if isinstance(content, dict) else content
        if isinstance(content, dict) and sorted(content.values()) != list(range(1, len(content) + 1)):
            raise ValueError(f"its ids are not 1 to {len(content)}")
        odd = [word for word in words if not isinstance(word, str) or word.split() != [word]]
        if odd:
            raise ValueError(f"{repr(odd[0])[:40]} is no word")
        return Tokenizer(words, distinct)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no vocabulary: it needs a 'train' list of reports, or the words by id with {UNKNOWN_WORD} "
            f"among them ({error})"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the downloaded checkpoint of the release")
    parser.add_argument("--vocabulary", type=Path, required=True, help="training annotation, or words by id, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write: new, empty, or an earlier result")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what the weights do not hold")
    options = parser.parse_intermixed_args(arguments)
    try:
        unused = convert(options.file, options.vocabulary, options.out, options.overrides)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(["Not used:", *(f"  {name}" for name in unused)]) if unused else "Every weight was used")
    print(f"Written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
