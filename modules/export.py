"""A trained model for other people and other programs: a folder as the Hugging Face hub expects it.

    python -m modules.export --checkpoint results/demo --out exported/demo

    README.md            model card, its scores from the run's metrics.json
    config.json, config.yaml   the configuration (the hub reads the first, this program the second)
    vocabularies.json    regions, attributes, observations and words
    model.safetensors    the weights
    metrics.json         where the run has one
    encoder.pt2          torch.export: images -> graph, memory and the decoder's first state (`ExportedEncoder`)
    decoder_step.pt2     torch.export: words so far -> logits of the next (`ExportedDecoderStep`)

The folder is a checkpoint: `Predictor`, main_test.py and main_predict.py take it. All of it is read again and compared,
the weights bit by bit, the two programs with the model that they come from; where they differ there is no folder.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from data.errors import UserError
from models.graph_attention import GraphMemory
from models.outputs import BoxSource, GraphSource, ModelInputs
from models.report_decoder import DecoderState, ReportDecoder
from models.sgrrg import SGRRG
from modules.builders import box_source_of_new_images, load_model
from modules.checkpoint import CONFIG, EXPORTED_WEIGHTS, VOCABULARIES, Checkpoint, load_checkpoint
from modules.config import Config, config_to_yaml
from modules.evaluation.evaluator import inference
from modules.inference.model_card import model_card

ENCODER, DECODER_STEP = "encoder.pt2", "decoder_step.pt2"
# Largest difference of any number between an exported program and the model, in fp32 on the CPU.
TOLERANCE = 1e-4
# Studies of the traced example, and of those that programs are compared on.
_TRACED, _COMPARED = 3, (2, 3, 5)

State = dict[str, Any]


class ExportedEncoder(nn.Module):
    """images [B, V, 3, H, H], view_mask [B, V], frontal [B] -> a dictionary of tensors.

    Of `models.outputs.Encoded`: observation_logits, region_logits, visible_logits, attribute_logits; of its graph:
    selected, boxes, attributes; each where the model has it. state: what `ExportedDecoderStep` begins with, a nested
    dictionary with the fields of `DecoderState`. B may be any number, V is that of the configuration.
    """

    def __init__(self, model: SGRRG, box_source: BoxSource, beams: int, longest: int):
        super().__init__()
        self.model = model
        self.box_source = box_source
        self.beams = beams
        self.longest = longest

    def forward(self, images: Tensor, view_mask: Tensor, frontal: Tensor) -> dict[str, Any]:
        encoded = self.model.encode(ModelInputs(images, view_mask, frontal), GraphSource.PREDICTED, self.box_source)
        names = ("observation_logits", "region_logits", "visible_logits", "attribute_logits")
        outputs = {name: getattr(encoded, name) for name in names}
        if encoded.graph is not None:
            outputs |= {name: getattr(encoded.graph, name) for name in ("selected", "boxes", "attributes")}
        state = self.model.decoder.start(encoded.memory, encoded.memory_mask, encoded.graph, self.beams, self.longest)
        outputs = {name: value for name, value in outputs.items() if value is not None}
        return outputs | {"state": _as_dictionary(state)}


class ExportedDecoderStep(nn.Module):
    """token_ids [B * K], position, state -> logits [B * K, W] of the word after them, and the state after that.

    position: of the tokens in the report, 0 for BOS. The rows of a study's K beams lie together; where a beam goes on
    from another one's words, its row of `seen` [B, K, slots] is replaced by the other's. B is 2 or more: PyTorch takes
    a batch of one for a case of its own, so give a single study twice.
    """

    def __init__(self, decoder: ReportDecoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, token_ids: Tensor, position: int, state: State) -> tuple[Tensor, State]:
        copied = state | {
            "self_keys": [keys.clone() for keys in state["self_keys"]],
            "self_values": [values.clone() for values in state["self_values"]],
            "seen": state["seen"].clone(),
        }
        memories = copied.pop("graph_memories", None)
        if memories is not None:
            memories = [GraphMemory(**{"subgraph_keys": None} | memory) for memory in memories]
        after = DecoderState(**copied, graph_memories=memories, position=position)
        return self.decoder.step(token_ids, after), _as_dictionary(after)


def _as_dictionary(state: DecoderState) -> State:
    """The tensors of `state` by their names."""
    fields = {name: value for name, value in vars(state).items() if name not in ("position", "graph_memories")}
    if state.graph_memories is not None:
        fields["graph_memories"] = [
            {name: value for name, value in vars(memory).items() if value is not None}
            for memory in state.graph_memories
        ]
    return fields


# The folder


def export(checkpoint_path: str | Path, out: str | Path) -> dict[str, float]:
    """Write the folder `out`; returns the largest difference of each program from the model, by file name.

    Raises UserError for an unusable checkpoint, an `out` that exists, a disk that refuses, and for anything that is not
    what it was when it is read again; there is then no folder.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists: delete it, or give another --out")
    checkpoint = load_checkpoint(checkpoint_path)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_weights(partial, checkpoint)
        check_weights(partial, checkpoint)
        differences = export_programs(partial, checkpoint)
        partial.rename(out)
    except OSError as error:
        raise UserError(f"Cannot write {out} ({error.strerror}): free space, or choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return differences


def write_weights(folder: Path, checkpoint: Checkpoint) -> None:
    """Write everything but the programs."""
    config = portable(checkpoint.config)
    settings = config_to_yaml(config)
    described = {"model_type": "sgrrg", "architectures": ["SGRRG"], **yaml.safe_load(settings)}
    metrics = metrics_of(checkpoint)
    try:
        card = model_card(config, checkpoint.vocabularies, metrics)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"metrics.json of this run is damaged, or older than the program ({error}): run main_test.py "
                        "again, or delete it") from error
    texts = {
        CONFIG: settings,
        "config.json": _as_json(described),
        VOCABULARIES: json.dumps(checkpoint.vocabularies.to_dict(), ensure_ascii=False),
        "README.md": card,
    }
    if metrics is not None:
        texts["metrics.json"] = _as_json(metrics | {"checkpoint": config.name})
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = {name: value.contiguous() for name, value in checkpoint.weights.items()}
    save_file(weights, folder / EXPORTED_WEIGHTS, metadata={"format": "pt"})


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def portable(config: Config) -> Config:
    """`config` without the paths of this machine, and without what a trained model needs no more."""
    data = replace(config.data, root=f"data/{Path(config.data.root).name}", boxes_file=None, atlas_file=None)
    trunk = replace(config.model.patch_encoder, weights="none")
    return replace(
        config, results="results", data=data, model=replace(config.model, patch_encoder=trunk),
        train=replace(config.train, init_from=None, resume=False, device="auto"),
    )


def metrics_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The test scores of this very checkpoint, from metrics.json of its run folder; None without."""
    directory = checkpoint.directory
    for folder in (directory, directory.parent):
        path = folder / "metrics.json"
        if path.is_file():
            try:
                metrics = json.loads(path.read_text(encoding="utf-8"))
                tested = Path(metrics["checkpoint"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is damaged: run main_test.py again, or delete it") from error
            return metrics if folder == directory or tested.name == directory.name else None
    return None


def check_weights(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise UserError where `folder`, read as a checkpoint, is not the `checkpoint` bit by bit."""
    read = load_checkpoint(folder)
    same = read.weights.keys() == checkpoint.weights.keys() and all(
        value.dtype == read.weights[name].dtype and torch.equal(value, read.weights[name])
        for name, value in checkpoint.weights.items()
    )
    vocabularies = read.vocabularies.to_dict() == checkpoint.vocabularies.to_dict()
    if not (same and vocabularies and read.config == portable(checkpoint.config)):
        raise UserError(f"{folder} reads otherwise than the checkpoint {checkpoint.directory}: the disk may be damaged")


# The programs


def export_programs(folder: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """Write both programs and compare them with the model. Raises UserError where they differ beyond `TOLERANCE`."""
    config = checkpoint.config
    model = load_model(checkpoint, config)
    box_source = box_source_of_new_images(model, config)
    beams, longest = config.eval.beam_size, config.data.max_tokens - 1
    # One slot more than a report has words: PyTorch takes the last one for a case of its own.
    encoder, step = ExportedEncoder(model, box_source, beams, longest + 1), ExportedDecoderStep(model.decoder)
    with inference(model):
        images = example(config, _TRACED)
        state = encoder(*images)["state"]
    any_batch = {0: Dim.DYNAMIC}
    tokens = torch.full((_TRACED * beams,), model.bos_id)
    with torch.no_grad():
        _trace(encoder.eval(), images, (any_batch,) * 3, folder / ENCODER)
        dimensions = (any_batch, Dim.DYNAMIC, pytree.tree_map(lambda _: any_batch, state))
        _trace(step.eval(), (tokens, 2, state), dimensions, folder / DECODER_STEP)
        differences = compare(encoder, step, folder, config, longest)
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise UserError(f"{name} differs from the model by {difference:g}, more than {TOLERANCE:g}: not exported")
    return differences


def example(config: Config, studies: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random images [B, V, 3, H, H] with their view_mask and frontal, always the same."""
    generator = torch.Generator().manual_seed(studies)
    side = config.data.image_size
    images = torch.randn(studies, config.data.views, 3, side, side, generator=generator)
    return images, torch.ones(studies, config.data.views, dtype=torch.bool), torch.ones(studies, dtype=torch.bool)


def _trace(module: nn.Module, arguments: tuple, dimensions: tuple, path: Path) -> None:
    """Write `module` as a program. Raises UserError where it cannot be traced."""
    try:
        program = torch.export.export(module, arguments, dynamic_shapes=dimensions, strict=False)
    except Exception as error:  # tracing runs the model, and fails in as many ways
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{path.name} cannot be exported ({type(error).__name__}: {reason[:200]})") from error
    for graph in (part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)):
        for node in graph.nodes:
            node.meta.pop("stack_trace", None)  # it names the folders of this machine
    torch.export.save(program, path)


def compare(
    encoder: ExportedEncoder, step: ExportedDecoderStep, folder: Path, config: Config, longest: int
) -> dict[str, float]:
    """The largest difference of any number that the written programs and the model give, over whole greedy reports."""
    read_encoder, read_step = (torch.export.load(folder / name).module() for name in (ENCODER, DECODER_STEP))
    differences = dict.fromkeys((ENCODER, DECODER_STEP), 0.0)
    for studies in _COMPARED:
        images = example(config, studies)
        expected, found = encoder(*images), read_encoder(*images)
        differences[ENCODER] = max(differences[ENCODER], _difference(expected, found))
        state, read_state = expected["state"], found["state"]
        tokens = torch.full((studies * encoder.beams,), encoder.model.bos_id)
        for position in range(longest):
            logits, state = step(tokens, position, state)
            read_logits, read_state = read_step(tokens, position, read_state)
            differences[DECODER_STEP] = max(differences[DECODER_STEP], _difference(logits, read_logits))
            tokens = logits.argmax(-1)
    return differences


def _difference(expected: Any, found: Any) -> float:
    """The largest difference between two nested structures of tensors; infinite where their shapes differ."""
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    return max(
        (float((one.double() - other.double()).abs().max()) if one.shape == other.shape else float("inf"))
        for one, other in pairs if one.numel()
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; it must not be there yet")
    options = parser.parse_args(arguments)
    try:
        differences = export(options.checkpoint, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{EXPORTED_WEIGHTS}: read again, equal bit by bit")
    for name, difference in differences.items():
        print(f"{name}: differs from the model by {difference:.1e} at most (tolerance {TOLERANCE:g})")
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
