"""Training steps of a configuration on synthetic images, and how much faster its loader reads than it trains."""

import json
import time
from itertools import islice
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.parts import NotPossible, Publish
from benchmarks.gpu.rates import timed
from benchmarks.scale import write_data_set
from benchmarks.support.measure import MIB, peak_mib
from data.batch import Batch
from data.loaders import StudyLoader, training_loader
from modules.builders import build_trainer
from modules.config import Config, load_config
from modules.runtime import choose_precision, configure_backends
from modules.training.optimizer import set_training_mode
from modules.training.trainer import Trainer

CONFIGS = ("mimic_cxr", "iu_xray", "chest_imagenome")
STUDIES, TINY_STUDIES = 4000, 120
STEPS, TINY_STEPS = 20, 2
# cuDNN times its convolutions and fp16 finds its scale in the first steps.
WARMUP_STEPS, TINY_WARMUP_STEPS = 5, 1
_SECONDS_OF_STEPS, _SECONDS_OF_LOADING = 15.0, 10.0
# Sizes with which every part of a configuration runs in seconds on a CPU.
TINY = (
    "data.image_size=32", "data.max_tokens=12", "data.workers=1", "data.micro_batch_size=2", "optim.batch_size=4",
    "model.patch_encoder.backbone=small_resnet", "model.patch_encoder.stride=16",
    "model.patch_encoder.stochastic_depth=null", "model.width=16", "model.heads=2", "model.feedforward=16",
    "model.image_layers=1", "model.graph_layers=1", "model.decoder_layers=1", "model.memory_slots=8",
    "model.memory_heads=2", "model.memory_top=4",
)


def write_studies(root: Path, studies: int) -> None:
    """Write a prepared data set with two views per study, for configurations with one or two."""
    write_data_set(root, studies)
    file = root / "records.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for record in records:
        record["images"] *= 2
        record["views"] = ["PA", "LATERAL"]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def measure_training(publish: Publish, name: str, root: Path, device_type: str, tiny: bool, compiled: bool) -> None:
    """Publish time and memory of the training steps of configs/NAME.yaml on the data set `root`, in one process.

    The step is that of training: copying the batch to the device, its arithmetic, losses, gradients, clipping and
    optimiser. Without `compiled`, also operations and the speed of the loader.
    """
    device = torch.device(device_type)
    if compiled and device.type != "cuda":
        raise NotPossible("train.compile is not measured on a CPU, where compiling takes minutes")
    config = configure(name, root, device_type, tiny, compiled)
    configure_backends(device, config.train.deterministic)
    trainer = start_trainer(config, device)
    publish(describe(trainer, config))
    loader = build_loader(trainer, config)
    per_step = trainer.plan.micro_batches
    batches = list(islice(iter(loader), 4 * per_step))
    windows = [batches[start : start + per_step] for start in range(0, len(batches) - per_step + 1, per_step)]
    publish({"input_bytes_per_study": sum(map(input_bytes, windows[0])) / sum(map(len, windows[0]))})
    measure_steps(publish, trainer, windows, tiny)
    if not compiled:
        with FlopCounterMode(display=False) as counter:
            trainer.train_step(windows[0])
        publish({"flops_per_step": counter.get_total_flops()})
        measure_loader(publish, loader, config.data.views)
    loader.close()


def configure(name: str, root: Path, device_type: str, tiny: bool, compiled: bool) -> Config:
    """Return configs/NAME.yaml for the data set `root`, with random weights in the trunk: nothing is downloaded."""
    path = Path(__file__).resolve().parents[2] / "configs" / f"{name}.yaml"
    return load_config(path, [
        *(TINY if tiny else ()), f"data.root={root}", f"results={root / 'results'}", "model.patch_encoder.weights=none",
        f"train.device={device_type}", f"train.compile={str(compiled).lower()}",
    ])  # fmt: skip


def start_trainer(config: Config, device: torch.device) -> Trainer:
    """Return the trainer of `config`, ready for training steps."""
    trainer = build_trainer(config, device)
    set_training_mode(trainer.model, config.train.freeze)
    trainer.schedule.set(0)
    return trainer


def build_loader(trainer: Trainer, config: Config) -> StudyLoader:
    """Return the loader of training."""
    return training_loader(
        trainer.train_dataset, batch_size=config.optim.batch_size, seed=config.seed, workers=config.data.workers,
        pad_id=trainer.vocabularies.tokenizer.pad_id, pin_memory=trainer.device.type == "cuda",
        micro_batch_size=config.data.micro_batch_size,
    )


def describe(trainer: Trainer, config: Config) -> dict[str, object]:
    """Return the sizes of model and step. `gradient_bytes` is what each process sends per step in a distributed run."""
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    return {
        "precision": choose_precision(config.train.precision, trainer.device).value,
        "studies_per_step": trainer.plan.step_size, "micro_batches": trainer.plan.micro_batches,
        "views": config.data.views, "workers": config.data.workers, "words": len(trainer.vocabularies.tokenizer.words),
        "attributes": sum(trainer.vocabularies.attributes.sizes),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "gradient_bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    }


def input_bytes(batch: Batch) -> int:
    """Return the bytes of a batch that travel to the device."""
    tensors = [*vars(batch).values(), *vars(batch.regions).values()]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def measure_steps(publish: Publish, trainer: Trainer, windows: list[list[Batch]], tiny: bool) -> None:
    """Publish seconds of the training steps (median, fastest, slowest) and peak memory."""
    device = trainer.device
    start = time.perf_counter()
    for step in range(TINY_WARMUP_STEPS if tiny else WARMUP_STEPS):
        trainer.train_step(windows[step % len(windows)])
    publish({"warmup_seconds": time.perf_counter() - start})
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times: list[float] = []
    while len(times) < (TINY_STEPS if tiny else STEPS) and (not times or sum(times) < _SECONDS_OF_STEPS):
        window = windows[len(times) % len(windows)]
        times.append(timed(lambda window=window: trainer.train_step(window), device))
        median = sorted(times)[len(times) // 2]
        images = trainer.plan.step_size * trainer.config.data.views
        memory = {"peak_mib": peak_mib()} if device.type != "cuda" else {
            "peak_mib": torch.cuda.max_memory_allocated(device) / MIB,
            "reserved_mib": torch.cuda.max_memory_reserved(device) / MIB,
        }
        publish({
            "step_seconds": median, "step_seconds_range": [min(times), max(times)], "steps": len(times),
            "images_per_second": images / median, **memory,
        })  # fmt: skip


def measure_loader(publish: Publish, loader: StudyLoader, views: int) -> None:
    """Publish the images per second of the loader alone, with its workers already running."""
    loader.set_position(1, 0)
    batches = iter(loader)
    next(batches)
    start, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch) * views
        seconds = time.perf_counter() - start
        publish({"loader_images_per_second": images / seconds})
        if seconds > _SECONDS_OF_LOADING:
            break
