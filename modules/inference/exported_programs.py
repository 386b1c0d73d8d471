"""The two `torch.export` programs of an exported model: the encoder, and one step of the decoder.

Shapes as in `models/outputs.py`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from data.errors import UserError
from models.family.shared_memory import BoundMemory
from models.graph_attention import GraphMemory
from models.layers.masking import AttentionMask
from models.outputs import BoxSource, GraphSource, ModelInputs
from models.report_decoder import DecoderState
from models.sgrrg import SGRRG
from models.token_cache import TokenCache
from modules.builders import box_source_of_new_images, load_model
from modules.checkpoint import Checkpoint
from modules.config import Config
from modules.evaluation.evaluator import inference

ENCODER, DECODER_STEP = "encoder.pt2", "decoder_step.pt2"
# Largest allowed difference between a program and the model, in fp32 on the CPU.
TOLERANCE = 1e-4
# Batch sizes: of the traced example, and of those on which programs and model are compared.
_TRACED_STUDIES, _COMPARED_STUDIES = 3, (2, 3, 5)

State = dict[str, Any]


class ExportedEncoder(nn.Module):
    """images [B, V, 3, H, H], view_mask [B, V], frontal [B] -> a dictionary of tensors.

    observation_logits, region_logits, visible_logits and attribute_logits are those of `models.outputs.Encoded`;
    selected, boxes and attributes those of its graph; a part that the model lacks is absent. state is what
    `ExportedDecoderStep` starts from, a nested dictionary of tensors. B is dynamic, V is that of the configuration.
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
        # Without an exporter's static sizes, a mask that allows everything is None; a program has it as an input.
        mask = AttentionMask.of(encoded.memory_mask.unsqueeze(1), state.memory_keys[0].dtype)
        state = dataclasses.replace(state, memory_mask=mask)
        outputs = {name: value for name, value in outputs.items() if value is not None}
        return outputs | {"state": _state_to_dict(state)}


class ExportedDecoderStep(nn.Module):
    """token_ids [B * beams], position, state -> logits [B * beams, W] of the next token, and the next state.

    position: of the tokens in the report, 0 for BOS. The beams of a study are consecutive rows. If a beam continues
    another hypothesis, copy that one's row of `seen` [B, beams, L], and of `report_memory` [B, beams, slots, D] if
    there is one. B must be at least 2, since PyTorch specialises programs on a batch of one: pass a single study twice.
    """

    def __init__(self, model: SGRRG):
        super().__init__()
        self.decoder = model.decoder
        self.shared_memory = model.shared_memory
        if self.shared_memory is not None:  # its keys and values are the same for all studies
            with torch.no_grad():
                keys, values = self.shared_memory.project()
            self.register_buffer("shared_keys", keys)
            self.register_buffer("shared_values", values)

    def forward(self, token_ids: Tensor, position: int, state: State) -> tuple[Tensor, State]:
        copied = _state_from_dict(state, position)
        if self.shared_memory is not None:
            copied.shared_memory = BoundMemory(
                self.shared_memory, self.shared_keys, self.shared_values, state.get("shared_rows")
            )
        return self.decoder.step(token_ids, copied), _state_to_dict(copied)


def _state_to_dict(state: DecoderState) -> State:
    """The tensors of `state` by the names of the exported programs."""
    fields: State = {
        "self_keys": state.tokens.keys,
        "self_values": state.tokens.values,
        "seen": state.tokens.visible,
        "memory_keys": state.memory_keys,
        "memory_values": state.memory_values,
        "memory_mask": state.memory_mask.allowed,
    }
    if state.graph_memories is not None:
        fields["graph_memories"] = [_graph_memory_to_dict(memory) for memory in state.graph_memories]
    if state.report_memory is not None:
        fields["report_memory"] = state.report_memory
    if state.shared_memory is not None and state.shared_memory.allowed is not None:
        fields["shared_rows"] = state.shared_memory.allowed
    return fields


def _graph_memory_to_dict(memory: GraphMemory) -> dict[str, Tensor]:
    fields = {"keys": memory.keys, "values": memory.values, "mask": memory.mask.allowed, "selected": memory.selected}
    return fields if memory.subgraph_keys is None else fields | {"subgraph_keys": memory.subgraph_keys}


def _graph_memory_from_dict(fields: dict[str, Tensor]) -> GraphMemory:
    return GraphMemory.of(
        fields["keys"], fields["values"], fields["mask"], fields.get("subgraph_keys"), fields["selected"]
    )


def _state_from_dict(fields: State, position: int) -> DecoderState:
    """Undo `_state_to_dict`; tensors that a step writes to are copied, since a program must not change its inputs."""
    tokens = TokenCache(
        keys=[keys.clone() for keys in fields["self_keys"]],
        values=[values.clone() for values in fields["self_values"]],
        visible=fields["seen"].clone(),
        length=position,
    )
    memories = fields.get("graph_memories")
    if memories is not None:
        memories = [_graph_memory_from_dict(memory) for memory in memories]
    memory_mask = AttentionMask.of(fields["memory_mask"], fields["memory_keys"][0].dtype)
    return DecoderState(
        tokens, fields["memory_keys"], fields["memory_values"], memory_mask, graph_memories=memories,
        report_memory=fields.get("report_memory"),
    )


def export_programs(folder: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """Write both programs and compare them with the model.

    Returns the largest difference of each, by file name. Raises UserError if one exceeds `TOLERANCE`.
    """
    config = checkpoint.config
    model = load_model(checkpoint, config)
    box_source = box_source_of_new_images(model, config)
    beams, longest = config.eval.beam_size, config.data.max_tokens - 1
    # One slot more than the longest report needs, since PyTorch would specialise the program on the last one.
    encoder, step = ExportedEncoder(model, box_source, beams, longest + 1), ExportedDecoderStep(model)
    with inference(model):
        images = random_inputs(config, _TRACED_STUDIES)
        state = encoder(*images)["state"]
    any_batch = {0: Dim.DYNAMIC}
    tokens = torch.full((_TRACED_STUDIES * beams,), model.bos_id)
    with torch.no_grad():
        _write_program(encoder.eval(), images, (any_batch,) * 3, folder / ENCODER)
        dimensions = (any_batch, Dim.DYNAMIC, pytree.tree_map(lambda _: any_batch, state))
        _write_program(step.eval(), (tokens, 2, state), dimensions, folder / DECODER_STEP)
        differences = compare_programs(encoder, step, folder, config, longest)
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise UserError(f"{name} differs from the model by {difference:g}, more than {TOLERANCE:g}: not exported")
    return differences


def random_inputs(config: Config, studies: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, V, 3, H, H], view_mask and frontal, with a fixed seed."""
    generator = torch.Generator().manual_seed(studies)
    side = config.data.image_size
    images = torch.randn(studies, config.data.views, 3, side, side, generator=generator)
    return images, torch.ones(studies, config.data.views, dtype=torch.bool), torch.ones(studies, dtype=torch.bool)


def _write_program(module: nn.Module, arguments: tuple, dimensions: tuple, path: Path) -> None:
    """Trace `module` and save the program. Raises UserError if it cannot be traced."""
    try:
        program = torch.export.export(module, arguments, dynamic_shapes=dimensions, strict=False)
    except Exception as error:  # tracing runs the model, so anything may be raised
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"Cannot export {path.name} ({type(error).__name__}: {first_line[:200]})") from error
    for graph in (part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)):
        for node in graph.nodes:
            node.meta.pop("stack_trace", None)  # contains local paths
    torch.export.save(program, path)


def compare_programs(
    encoder: ExportedEncoder, step: ExportedDecoderStep, folder: Path, config: Config, longest: int
) -> dict[str, float]:
    """The largest difference between the outputs of the saved programs and the model, over whole greedy reports."""
    saved_encoder, saved_step = (torch.export.load(folder / name).module() for name in (ENCODER, DECODER_STEP))
    differences = dict.fromkeys((ENCODER, DECODER_STEP), 0.0)
    for studies in _COMPARED_STUDIES:
        images = random_inputs(config, studies)
        expected, actual = encoder(*images), saved_encoder(*images)
        differences[ENCODER] = max(differences[ENCODER], _max_difference(expected, actual))
        state, saved_state = expected["state"], actual["state"]
        tokens = torch.full((studies * encoder.beams,), encoder.model.bos_id)
        for position in range(longest):
            logits, state = step(tokens, position, state)
            saved_logits, saved_state = saved_step(tokens, position, saved_state)
            differences[DECODER_STEP] = max(differences[DECODER_STEP], _max_difference(logits, saved_logits))
            tokens = logits.argmax(-1)
    return differences


def _max_difference(expected: Any, actual: Any) -> float:
    """The largest absolute difference between two nested structures of tensors; infinite if shapes differ."""
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True)
    return max(
        (float((one.double() - other.double()).abs().max()) if one.shape == other.shape else float("inf"))
        for one, other in pairs if one.numel()
    )
