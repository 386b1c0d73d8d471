"""Estimates the GPU memory and time of a configuration from counted operations and saved activations.

    python -m benchmarks cost configs/mimic_cxr.yaml [key=value ...] [--studies N] [--teraflops 60]

The operations of one training step are counted on the CPU for a small batch and scaled. The sustained speed is an
assumption, which is printed with the result. Loading images and validation are not included.
"""

import argparse
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.support.measure import require_at_least
from data.batch import Batch, RegionAnnotation
from data.errors import UserError
from data.ontology import Anatomy, observation_names
from data.sources.chest_imagenome.scene_graphs import KNOWN_IMAGES
from data.sources.mimic_cxr.files import KNOWN_R2GEN_IMAGES
from data.text.tokenizer import Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.outputs import BoxSource, GraphSource
from modules.builders import build_criterion, build_model
from modules.config import Config, Precision, load_config
from modules.model_inputs import model_inputs

# Training samples of a data set, by its usual folder: studies of R2Gen's list, images of R2Gen's list (frontal or not),
# images of Chest ImaGenome's split (at most: those whose report has no findings are left out).
TRAINING_SAMPLES = {
    "iu_xray": 2_069, "mimic_cxr": KNOWN_R2GEN_IMAGES["train"], "chest_imagenome": KNOWN_IMAGES["train"],
}
# Number of attributes of each region in the release's Chest ImaGenome vocabulary.
RELEASE_ATTRIBUTES = (
    67, 67, 33, 39, 57, 56, 46, 46, 28, 32, 32, 45, 47, 12, 46, 43, 13, 15, 15, 12, 22, 10, 21, 4, 9, 7, 4, 9, 12,
)  # fmt: skip
WORDS = 4_000
# Reports in Chest ImaGenome mention about a third of the 29 regions, each with about three attributes.
REGIONS_MENTIONED, ATTRIBUTES_PER_MENTION = 9, 3
TOKENS = 60


@dataclass
class Cost:
    """Cost per study and training step, and the size of the model.

    activation_bytes   saved for the backward pass
    parameters         of the model
    """

    flops: float
    activation_bytes: float
    parameters: int


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `cost`."""
    parser = commands.add_parser("cost", help="GPU memory and hours, estimated from counted operations")
    parser.add_argument("config", help="a YAML file of configs/")
    parser.add_argument("overrides", nargs="*", help="settings to change, as key=value")
    parser.add_argument("--studies", type=int,
                        help="training samples per epoch (default: those of the configuration's data set)")
    parser.add_argument("--teraflops", type=float, default=60.0,
                        help="assumed sustained speed in 1e12 operations per second (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the estimate for `options.config`."""
    require_at_least(1, options, "studies", "teraflops")
    # Neither weights nor attribute counts change the cost: without them, no file is needed.
    without_files = ["model.patch_encoder.weights=none", "loss.attribute_pos_weight=null"]
    config = load_config(options.config, [*options.overrides, *without_files])
    counts = [TRAINING_SAMPLES.get(root.name) for root in config.data.roots]
    if options.studies is None and None in counts:
        raise UserError(f"The number of training samples in {config.data.root} is not known: add --studies N")
    studies = options.studies or sum(counts)
    cost = count_cost(config)
    hours = cost.flops * studies * config.train.epochs / (options.teraflops * 1e12) / 3600
    bytes_per_parameter = 16  # weight, gradient and two moments, fp32
    half = 0.5 if config.train.precision != Precision.FP32 else 1.0
    batch_size = config.data.micro_batch_size or config.optim.batch_size
    memory = cost.parameters * bytes_per_parameter + cost.activation_bytes * half * batch_size
    print(f"{options.config}: {cost.parameters / 1e6:.0f} M parameters, "
          f"{cost.flops / 1e9:.0f} GFLOP per study and step (forward and backward)")
    print(f"estimated memory: {memory / 2**30:.1f} GiB per GPU at batch {batch_size}, "
          f"{config.train.precision}")
    print(f"estimated time: {hours:.1f} GPU hours for {config.train.epochs} epochs of {studies:,} studies "
          f"at an assumed {options.teraflops:g} TFLOP/s sustained, without loading and validation")


def count_cost(config: Config, studies: int = 2) -> Cost:
    """Count operations, activations and parameters of one training step on synthetic studies of typical size."""
    vocabularies = synthetic_vocabularies()
    model = build_model(config, vocabularies).train()
    criterion = build_criterion(config, vocabularies)
    batch = synthetic_batch(config, vocabularies, studies)
    saved_bytes: dict[int, int] = {}

    def record_size(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    source = GraphSource.NONE if model.graph is None else GraphSource.ORACLE
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(record_size, lambda tensor: tensor):
            inputs = model_inputs(batch, source, BoxSource.ATLAS, training=True)
            output = model(inputs, batch.token_ids, batch.token_mask, source, BoxSource.ATLAS)
            losses = criterion(output, batch, criterion.counts(batch))
        losses.total.backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(counter.get_total_flops() / studies, sum(saved_bytes.values()) / studies, parameters)


def synthetic_vocabularies() -> Vocabularies:
    """Return vocabularies of the release's sizes, with made-up names."""
    tokenizer = Tokenizer.from_reports([" ".join(f"word{index:04}" for index in range(WORDS))], 1, True)
    attributes = AttributeVocabulary(
        tuple(tuple(f"attribute {index}" for index in range(size)) for size in RELEASE_ATTRIBUTES), "synthetic"
    )
    return Vocabularies(Anatomy.load(), attributes, observation_names(), tokenizer)


def synthetic_batch(config: Config, vocabularies: Vocabularies, studies: int) -> Batch:
    """Return a batch with noise as images and typical numbers of regions, attributes and words per study."""
    generator = torch.Generator().manual_seed(0)
    side, views = config.data.image_size, config.data.views
    tokens = min(TOKENS, config.data.max_tokens)
    regions = len(vocabularies.anatomy.regions)
    mentioned = (torch.arange(regions) < REGIONS_MENTIONED).expand(studies, -1).clone()
    attributes = torch.zeros(studies, regions, vocabularies.attributes.largest, dtype=torch.bool)
    attributes[:, :REGIONS_MENTIONED, :ATTRIBUTES_PER_MENTION] = True
    known = torch.ones(studies, dtype=torch.bool)
    boxes = vocabularies.anatomy.boxes.expand(studies, -1, -1).clone()
    visible = torch.ones_like(mentioned)
    return Batch(
        study_ids=[str(index) for index in range(studies)],
        images=torch.randn(studies, views, 3, side, side, generator=generator),
        view_mask=torch.ones(studies, views, dtype=torch.bool), frontal=known,
        regions=RegionAnnotation(boxes, visible, mentioned, mentioned, attributes, known, known),
        observations=torch.zeros(studies, len(observation_names())),
        observations_known=torch.ones(studies, len(observation_names()), dtype=torch.bool),
        token_ids=torch.randint(3, WORDS, (studies, tokens), generator=generator),
        token_mask=torch.ones(studies, tokens, dtype=torch.bool), references=[""] * studies,
        detector_boxes=boxes, detector_visible=visible,
    )
