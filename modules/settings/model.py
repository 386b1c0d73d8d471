"""Settings of the model."""

from dataclasses import dataclass, field

from data.errors import UserError, wrong_value
from modules.settings.trunk import PatchEncoderConfig


@dataclass
class CrossModalMemoryConfig:
    """R2GenCMN's memory, which patches and words read (`models/family/cross_modal_memory.py`).

    rows         null: no memory; 2048 as published
    heads        attention heads
    responding   rows that respond to a patch or word, per head
    """

    rows: int | None = None
    heads: int = 8
    responding: int = 32


@dataclass
class DecoderConfig:
    """R2Gen's decoder (`models/family/relational_memory.py`).

    norms          plain, or memory: scale and shift of each layer's norms depend on a memory of what has been written
    memory_slots   rows of that memory
    memory_heads   its attention heads
    """

    norms: str = "plain"
    memory_slots: int = 3
    memory_heads: int = 8


@dataclass
class PrototypesConfig:
    """XProNet's memory with rows for each observation (`models/family/prototypes.py`).

    per_observation   rows of an observation; null: no prototypes; 20 as published. At test, the rows of predicted
                      observations respond, or with graph_source oracle those of the reference report's. In training the
                      same, as train.graph_source says
    channels          of a row, before it is projected to the model's width
    heads             attention heads
    responding        rows that respond to a patch or word, per head
    """

    per_observation: int | None = None
    channels: int = 2816
    heads: int = 8
    responding: int = 15


@dataclass
class ModelConfig:
    """Sizes and options of SGRRG; names as in the paper's ablations.

    report                            the model writes reports; false: it is its image side alone, the trunk with the
                                      observation head and the localizer
    context                           what the model reads beside the images: indication, prior (the patient's previous
                                      study), both, or nothing
    prior_report                      with prior, also read the report of the previous study
    indication_evidence               with indication, it is also added to the features from which observations, regions
                                      and attributes are predicted
    width, heads, feedforward         D, attention heads and feed-forward width of every transformer layer
    image_layers, graph_layers, decoder_layers   depths
    dropout, image_dropout            dropout everywhere; after the projection of the patches
    norm                              of transformer layers: layer (LayerNorm), or std, which divides by the unbiased
                                      standard deviation plus 1e-6 as the R2Gen family does
    activation                        of feed-forward layers: gelu or relu (the R2Gen family's)
    patch_projection                  norm_gelu: Linear, LayerNorm, GELU; relu: Linear, ReLU (the R2Gen family's)
    patch_positions                   add sinusoidal positions to the patches (R2GenCMN, XProNet)
    encode                            oa-c, oa-d or oa-pm: which nodes of the graph attend to each other
    sentence_attention                subgraph, hierarchical or node: what a token attends to
    pooling                           max or mean: pools the nodes of a sub-graph into its vector
    graph_in                          decoder, encoder, both or none: where the graph is attended to
    fuse                              attention, concat or add: combines the attended graph with the state
    gate                              learned gate between the attended graph and the state
    memory, memory_slots, memory_heads, memory_top   the region selector's memory
    decoder                           see `DecoderConfig`
    discriminative_map                CAMANet's: a foreground row, the patches weighted with the class activation map of
                                      the predicted observations, enters the image encoder; needs observation_head
    subtract_background               lower the patches by the rest, likewise (off as published)
    cross_modal_memory, prototypes    see `CrossModalMemoryConfig`, `PrototypesConfig`
    roi                               pool (maximum, as in the release) or align (mean over the area of the box)
    share_attribute_names             attributes of the same name share weights across regions
    initial_std                       standard deviation of initial weights, except in the trunk; null: Xavier uniform,
                                      as in the R2Gen family
    observation_head                  proxy task 1
    localizer                         the model predicts boxes itself
    region_threshold, attribute_threshold, visible_threshold   probability thresholds in inference; the first two are
                                      the defaults of those that `modules/calibrate.py` tunes
    """

    patch_encoder: PatchEncoderConfig = field(default_factory=PatchEncoderConfig)
    context: list[str] = field(default_factory=list)
    prior_report: bool = False
    indication_evidence: bool = False
    report: bool = True
    width: int = 512
    heads: int = 8
    feedforward: int = 512
    image_layers: int = 3
    graph_layers: int = 3
    decoder_layers: int = 3
    dropout: float = 0.1
    image_dropout: float = 0.2
    norm: str = "layer"
    activation: str = "gelu"
    patch_projection: str = "norm_gelu"
    patch_positions: bool = False
    encode: str = "oa-c"
    sentence_attention: str = "subgraph"
    pooling: str = "max"
    graph_in: str = "decoder"
    fuse: str = "attention"
    gate: bool = False
    memory: bool = True
    memory_slots: int = 512
    memory_heads: int = 32
    memory_top: int = 32
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    discriminative_map: bool = False
    subtract_background: bool = False
    cross_modal_memory: CrossModalMemoryConfig = field(default_factory=CrossModalMemoryConfig)
    prototypes: PrototypesConfig = field(default_factory=PrototypesConfig)
    roi: str = "pool"
    share_attribute_names: bool = False
    initial_std: float | None = 0.02
    observation_head: bool = True
    localizer: bool = True
    region_threshold: float = 0.2
    attribute_threshold: float = 0.5
    visible_threshold: float = 0.5


MODEL_CHOICES = {
    "model.patch_encoder.stride": (None, 16, 32),
    "model.norm": ("layer", "std"),
    "model.activation": ("gelu", "relu"),
    "model.patch_projection": ("norm_gelu", "relu"),
    "model.encode": ("oa-c", "oa-d", "oa-pm"),
    "model.sentence_attention": ("subgraph", "hierarchical", "node"),
    "model.pooling": ("max", "mean"),
    "model.graph_in": ("decoder", "encoder", "both", "none"),
    "model.fuse": ("attention", "concat", "add"),
    "model.roi": ("pool", "align"),
    "model.decoder.norms": ("plain", "memory"),
}

MODEL_MINIMA = {
    "model.patch_encoder.stochastic_depth": 0, "model.width": 1, "model.heads": 1, "model.feedforward": 1,
    "model.image_layers": 0, "model.graph_layers": 0, "model.decoder_layers": 1, "model.dropout": 0,
    "model.image_dropout": 0, "model.memory_slots": 1, "model.memory_heads": 1, "model.memory_top": 1,
    "model.initial_std": 0, "model.cross_modal_memory.rows": 1, "model.cross_modal_memory.heads": 1,
    "model.cross_modal_memory.responding": 1, "model.prototypes.per_observation": 1, "model.prototypes.channels": 1,
    "model.prototypes.heads": 1, "model.prototypes.responding": 1, "model.decoder.memory_slots": 1,
    "model.decoder.memory_heads": 1,
}


def check_sizes(model: ModelConfig) -> None:
    """Raise UserError, naming the setting, if sizes or parts of the model do not fit each other."""
    if model.width % model.heads:
        raise wrong_value("model.width", model.width, f"must be a multiple of model.heads={model.heads}")
    if model.width % 2:
        raise wrong_value("model.width", model.width, "sine and cosine positions need an even width")
    if model.memory_top > model.memory_slots:
        rule = f"must be at most model.memory_slots={model.memory_slots}"
        raise wrong_value("model.memory_top", model.memory_top, rule)
    if model.decoder.norms == "memory" and model.width % model.decoder.memory_heads:
        rule = f"must divide model.width={model.width}"
        raise wrong_value("model.decoder.memory_heads", model.decoder.memory_heads, rule)
    cross_modal = model.cross_modal_memory
    if cross_modal.rows is not None:
        if model.width % cross_modal.heads:
            rule = f"must divide model.width={model.width}"
            raise wrong_value("model.cross_modal_memory.heads", cross_modal.heads, rule)
        if cross_modal.responding > cross_modal.rows:
            rule = f"must be at most model.cross_modal_memory.rows={cross_modal.rows}"
            raise wrong_value("model.cross_modal_memory.responding", cross_modal.responding, rule)
    if model.prototypes.per_observation is not None:
        if model.width % model.prototypes.heads:
            rule = f"must divide model.width={model.width}"
            raise wrong_value("model.prototypes.heads", model.prototypes.heads, rule)
        if not model.observation_head:
            raise UserError("model.prototypes are chosen by predicted observations: set model.observation_head=true")
        if cross_modal.rows is not None:
            raise UserError("model.cross_modal_memory and model.prototypes exclude each other: leave out one of them")
    if model.discriminative_map and not model.observation_head:
        raise UserError("model.discriminative_map=true is a map of observations: set model.observation_head=true")
    if model.subtract_background and not model.discriminative_map:
        raise UserError("model.subtract_background=true needs the map of model.discriminative_map=true")
