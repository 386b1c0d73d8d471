"""Recordings of the R2Gen family: arrays, settings, and the model that the builders make, with the recorded weights."""

import re
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import Batch, RegionAnnotation
from data.ontology import Anatomy, observation_names
from data.text.tokenizer import UNKNOWN_WORD, Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.outputs import BoxSource, Generation, GraphSource, ModelInputs, SGRRGOutput
from models.patch_encoder import Patches
from models.sgrrg import SGRRG
from modules import builders
from modules.config import Config, load_config
from modules.model_inputs import model_inputs
from modules.training.losses import Losses

TENSOR = {"atol": 2e-5, "rtol": 1e-4}
# Settings of the family's base, and of each system's part.
BASE = (
    "data.distinct_special_tokens=false", "model.graph_in=none", "model.norm=std", "model.activation=relu",
    "model.patch_projection=relu", "model.dropout=0", "model.image_dropout=0",
)
PARTS = {
    "R2Gen": (
        "model.observation_head=false", "model.decoder.norms=memory", "model.decoder.memory_slots={rm_num_slots}",
        "model.decoder.memory_heads={rm_num_heads}",
    ),
    "CAMANet": (
        "model.discriminative_map=true", "model.subtract_background={sub_back}", "loss.observations={cls_w}",
        "loss.attention_consistency={mse_w}", "loss.consistency_words={topk}", "loss.consistency_layer={layer}",
    ),
    "XProNet": (
        "model.patch_positions=true", "model.prototypes.per_observation={num_protype}", "loss.observations=0",
        "model.prototypes.channels={channels}", "model.prototypes.heads={num_heads}",
        "model.prototypes.responding={topk}",
    ),
    "R2GenCMN": (
        "model.patch_positions=true", "model.observation_head=false", "model.cross_modal_memory.rows={cmm_size}",
        "model.cross_modal_memory.heads={num_heads}", "model.cross_modal_memory.responding={topk}",
    ),
}
# (pattern, replacement): our name -> the published one, applied in order to the whole name.
_RENAMES = (
    (r"^image_encoder\.project\.", "encoder_decoder.att_embed.0."),
    (r"^image_encoder\.", "encoder_decoder.model.encoder."),
    (r"^decoder\.embedding\.tokens\.", "encoder_decoder.model.tgt_embed.0.lut."),
    (r"^decoder\.word_head\.", "encoder_decoder.logit."),
    (r"^decoder\.relational_memory\.", "encoder_decoder.model.rm."),
    (r"\.rm\.attention\.", ".rm.attn."),
    (r"\.rm\.transform\.", ".rm.mlp."),
    (r"\.rm\.word_gates\.", ".rm.W."),
    (r"\.rm\.memory_gates\.", ".rm.U."),
    (r"\.weight_change\.", ".mlp_gamma."),
    (r"\.bias_change\.", ".mlp_beta."),
    (r"^decoder\.", "encoder_decoder.model.decoder."),
    (r"^discriminative_map\.foreground_norm\.", "fore_back_learn.norm."),
    (r"^discriminative_map\.background_norm\.", "fore_back_learn.back_norm."),
    (r"^observation_head\.head\.", "visual_extractor.head."),
    (r"^shared_memory\.prototypes$", "encoder_decoder.protypes"),
    (r"^shared_memory\.reduction\.", "encoder_decoder.dim_reduction."),
    (r"^shared_memory\.patch_fusion\.", "encoder_decoder.fuse_feature."),
    (r"^shared_memory\.word_fusion\.", "encoder_decoder.model.fuse_feature."),
    (r"^shared_memory\.memory$", "encoder_decoder.memory_matrix"),
    (r"^shared_memory\.(query|key|value|output)", r"encoder_decoder.cmn.\1"),
    (r"\.self_attention\.attention\.", ".self_attn."),
    (r"\.self_attention\.norm\.", ".sublayer.0.norm."),
    (r"\.image_norm\.", ".sublayer.1.norm."),
    (r"(decoder\.layers\.\d+)\.feed_forward\.norm\.", r"\1.sublayer.2.norm."),
    (r"\.feed_forward\.norm\.", ".sublayer.1.norm."),
    (r"\.feed_forward\.feed_forward\.expand\.", ".feed_forward.w_1."),
    (r"\.feed_forward\.feed_forward\.contract\.", ".feed_forward.w_2."),
    (r"\.image_attention\.", ".src_attn."),
    (r"((?:attn|cmn)\.)query\.", r"\1linears.0."),
    (r"((?:attn|cmn)\.)key\.", r"\1linears.1."),
    (r"((?:attn|cmn)\.)value\.", r"\1linears.2."),
    (r"((?:attn|cmn)\.)output\.", r"\1linears.3."),
)
# Second names of the same tensors, and the table of positions.
_ALIASES = re.compile(r"\.pe$|^encoder_decoder\.model\.cmn\.|^fore_back_learn\.fore_norm\.")


class RecordedPatches(nn.Module):
    """Stands for the trunk, which the recordings leave out: the recorded features, whatever the images.

    features   patches [B, N, C], or feature maps [B, V, C, H, H] before the last ReLU of the trunk
    """

    def __init__(self, features: Tensor, mask: Tensor | None):
        super().__init__()
        self.channels = features.shape[2]
        self.unused_weights = ()
        self.features, self.mask = features.requires_grad_(), mask

    def forward(self, images: Tensor, view_mask: Tensor, views: int | None = None) -> Patches:
        patches = self.features
        if patches.dim() == 5:
            patches = patches.relu().flatten(-2).transpose(-1, -2).flatten(1, 2)
        mask = torch.ones(patches.shape[:2], dtype=torch.bool) if self.mask is None else self.mask
        return Patches(patches, mask, patches.transpose(1, 2).unsqueeze(-1))


@dataclass
class Recording:
    """One file. system: its name, e.g. R2Gen; numbers, options: its settings."""

    arrays: dict[str, Tensor]
    numbers: dict[str, float]
    options: dict[str, str]
    grad_names: list[str]
    config: Config
    vocabularies: Vocabularies
    model: SGRRG

    @property
    def system(self) -> str:
        return self.options["system"]

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def has(self, name: str) -> bool:
        return name in self.arrays

    def unused_names(self) -> set[str]:
        """Published names of second names of a tensor, and of weights that are not used with these settings."""
        names = {name[6:] for name in self.arrays if name.startswith("param/")}
        unused = {name for name in names if _ALIASES.search(name)}
        if not self.numbers.get("sub_back"):
            unused |= {name for name in names if name.startswith("fore_back_learn.back_norm.")}
        return unused

    def official_names(self) -> dict[str, str]:
        """Our name of each parameter -> the published one."""
        names = [name for name, _ in self.model.named_parameters()]
        if self.system == "XProNet":  # which has no classifier of its own
            names = [name for name in names if not name.startswith("observation_head.")]
        return {name: self._official_name(name) for name in names}

    def _official_name(self, name: str) -> str:
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        scale, shift = ("a_2", "b_2") if self.system in ("R2GenCMN", "XProNet") else ("gamma", "beta")
        return re.sub(r"norm\.bias$", f"norm.{shift}", re.sub(r"norm\.weight$", f"norm.{scale}", name))

    def batch(self) -> Batch:
        """The recorded inputs, without any graph."""
        text = self["in/text"]
        studies, regions = len(text), len(self.vocabularies.anatomy.regions)
        no, unknown = torch.zeros(studies, regions, dtype=torch.bool), torch.zeros(studies, dtype=torch.bool)
        boxes = torch.zeros(studies, regions, 4)
        observations = self.arrays.get("in/labels", torch.zeros(studies, len(observation_names())))
        return Batch(
            study_ids=[str(i) for i in range(studies)], images=torch.zeros(studies, 1, 3, 1, 1),
            view_mask=torch.ones(studies, 1, dtype=torch.bool), frontal=torch.ones(studies, dtype=torch.bool),
            regions=RegionAnnotation(boxes, no, no, no, no.unsqueeze(-1), unknown, unknown), observations=observations,
            observations_known=torch.full(observations.shape, self.has("in/labels")), token_ids=text,
            token_mask=self["in/mask"].bool(), references=[""] * studies, detector_boxes=boxes, detector_visible=no,
        )

    def losses(self, query_is_first_patch: bool = False) -> tuple[SGRRGOutput, Losses]:
        """The output of teacher forcing on the recorded batch, and its losses.

        query_is_first_patch: compare words with the first patch in place of the foreground row, CAMANet's defect
        """
        batch, layer = self.batch(), None
        if self.system == "CAMANet":
            layer = self.config.loss.consistency_layer - 1
        output = self.model(
            self.inputs(), batch.token_ids, batch.token_mask, GraphSource.ORACLE, BoxSource.ATLAS,
            image_attention_layer=layer,
        )
        if query_is_first_patch:
            output.encoded.foreground = output.encoded.memory[:, 0]
        criterion = builders.build_criterion(self.config, self.vocabularies)
        return output, criterion(output, batch, criterion.counts(batch))

    def inputs(self) -> ModelInputs:
        """With the labels of the reports, which XProNet takes even at test."""
        return model_inputs(self.batch(), GraphSource.ORACLE, BoxSource.ATLAS)

    def generate(self, beams: int) -> Generation:
        """Reports of at most as many tokens as recorded."""
        longest = int(self.numbers["max_seq_length"])
        with torch.inference_mode():
            return self.model.generate(
                self.inputs(), GraphSource.ORACLE, BoxSource.ATLAS, beam_size=beams, max_tokens=longest + 1
            )


def load(path: Path) -> Recording:
    """Read a recording and build its model through settings and builders."""
    with np.load(path) as file:
        raw = {name: file[name] for name in file.files}
    numbers = dict(zip(raw["config/names"].tolist(), raw["config/values"].tolist(), strict=True))
    options = dict(line.split("=", 1) for line in raw["config/text"].tolist())
    arrays = {name: torch.from_numpy(value) for name, value in raw.items() if value.dtype.kind in "fib"}
    whole = {name: int(value) if value.is_integer() else value for name, value in numbers.items()}
    whole["layer"] = whole.get("layer_id", 0) + 1
    whole["channels"] = whole.get("d_img_ebd", 0) + whole.get("d_txt_ebd", 0)
    settings = (
        *BASE, f"data.max_tokens={whole['max_seq_length'] + 1}", f"model.width={whole['d_model']}",
        f"model.heads={whole['num_heads']}", f"model.feedforward={whole['d_ff']}",
        f"model.image_layers={whole['num_layers']}", f"model.decoder_layers={whole['num_layers']}",
        *(setting.format(**whole) for setting in _part_settings(options)),
    )
    config = load_config(None, list(settings))
    words = (UNKNOWN_WORD, *(f"word{number}" for number in range(whole["vocab"] - 2)))
    anatomy = Anatomy.load()
    vocabularies = Vocabularies(
        anatomy, AttributeVocabulary(tuple(() for _ in anatomy.regions), "default"), observation_names(),
        Tokenizer(words, distinct_special_tokens=False),
    )
    with mock.patch.object(builders, "build_patch_encoder", lambda *_: _recorded_patches(arrays)):
        model = builders.build_model(config, vocabularies)
    recording = Recording(arrays, numbers, options, raw["grad/names"].tolist(), config, vocabularies, model.eval())
    _load_weights(recording)
    return recording


def _recorded_patches(arrays: dict[str, Tensor]) -> RecordedPatches:
    mask = arrays.get("in/patch_mask")
    features = arrays["in/feature_maps" if "in/feature_maps" in arrays else "in/patch_feats"]
    return RecordedPatches(features, None if mask is None else mask.bool())


def _part_settings(options: dict[str, str]) -> tuple[str, ...]:
    """The settings of the system's parts; CAMANet may have R2Gen's decoder."""
    settings = PARTS[options["system"]]
    if options.get("ed_name") == "r2gen":
        settings += tuple(setting for setting in PARTS["R2Gen"] if setting.startswith("model.decoder"))
    return settings


def _load_weights(recording: Recording) -> None:
    """Load the recorded weights; all of them must have a place in the model."""
    official = {name[6:]: value for name, value in recording.arrays.items() if name.startswith("param/")}
    names = recording.official_names()
    assert set(names.values()) == set(official) - recording.unused_names()
    with torch.no_grad():
        for name, parameter in recording.model.named_parameters():
            if name not in names:
                continue
            assert parameter.shape == official[names[name]].shape, name
            parameter.copy_(official[names[name]])
