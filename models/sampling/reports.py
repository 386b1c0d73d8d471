"""Sampled reports of a batch, and the log-probabilities that training needs of them.

Shapes as in `models/outputs.py`, and S reports per study. The reports of a study are rows next to each other, [B * S].
"""

import torch
from torch import Tensor

from models.beam_search import Decoding, sample
from models.family.shared_memory import BoundMemory
from models.layers.packing import Packing
from models.outputs import BoxSource, Encoded, GraphSource, ModelInputs, SceneGraph
from models.sgrrg import SGRRG


@torch.no_grad()
def sample_reports(
    model: SGRRG, inputs: ModelInputs, graph_source: GraphSource, box_source: BoxSource, samples: int, max_tokens: int,
    generator: torch.Generator, with_greedy: bool = False, excluded_ids: tuple[int, ...] = (),
) -> Tensor:
    """Sample reports of at most `max_tokens` tokens counting BOS; return token ids [B, S, T] without BOS.

    S is `samples`, or one more `with_greedy`: then the first report of each study is that of greedy decoding. A report
    ends with EOS unless it reached the limit, and padding follows. Studies are encoded once, and the reports of a study
    share its memories in the decoder's cached state. `excluded_ids` are never generated.
    """
    studies, reports, longest = len(inputs.images), samples + with_greedy, max_tokens - 1
    encoded = model.encode(inputs, graph_source, box_source)
    state = model.decoder.start(
        encoded.memory, encoded.memory_mask, encoded.graph, reports, longest, encoded.shared_memory
    )
    is_greedy = None
    if with_greedy:
        is_greedy = (torch.arange(reports, device=inputs.images.device) == 0).repeat(studies)
    decoding = _decoding(model, studies * reports, longest, inputs.images.device, excluded_ids)
    token_ids = sample(model.decoder.step, state, decoding, generator=generator, is_greedy=is_greedy).token_ids
    longest_written = int(_real_tokens(token_ids, model.eos_id).sum(1).max())
    return token_ids[:, :longest_written].unflatten(0, (studies, reports))


def report_log_probabilities(
    model: SGRRG, encoded: Encoded, studies: Tensor, token_ids: Tensor, excluded_ids: tuple[int, ...] = ()
) -> Tensor:
    """Return the log-probability [studies, S] of each report, with its gradient, from one teacher-forced pass.

    encoded     studies that include those of the reports
    studies     [studies] long, the rows of `encoded` that the reports belong to
    token_ids   [studies, S, T] and `excluded_ids`, as in `sample_reports`: the probabilities are those that it draws
                with if the model computes as it did then, without dropout
    """
    count, reports, longest = token_ids.shape
    token_ids = token_ids.flatten(0, 1)
    memories = _repeat_memories(encoded, studies.repeat_interleave(reports))
    previous = torch.cat([torch.full_like(token_ids[:, :1], model.bos_id), token_ids[:, :-1]], 1)
    packing = Packing.from_mask(_real_tokens(token_ids, model.eos_id))
    logits = model.decoder(previous, packing, *memories)
    log_probs = _decoding(model, count * reports, longest, logits.device, excluded_ids).log_probs(logits)
    written = log_probs.gather(1, packing.pack(token_ids).unsqueeze(1)).squeeze(1)
    return packing.unpack(written).sum(1).unflatten(0, (count, reports))


def _decoding(
    model: SGRRG, reports: int, longest: int, device: torch.device, excluded_ids: tuple[int, ...]
) -> Decoding:
    words = model.decoder.word_head.out_features
    return Decoding(reports, longest, words, model.bos_id, model.eos_id, model.pad_id, device, excluded_ids)


def _real_tokens(token_ids: Tensor, eos_id: int) -> Tensor:
    """[rows, T] bool: the generated tokens, up to and including the first EOS."""
    is_end = token_ids == eos_id
    return is_end.cumsum(1) - is_end.long() == 0


def _repeat_memories(encoded: Encoded, rows: Tensor) -> tuple[Tensor, Tensor, SceneGraph | None, BoundMemory | None]:
    """What the decoder reads of the studies `rows`, which may repeat, in the order of its arguments."""
    graph, shared = encoded.graph, encoded.shared_memory
    if graph is not None:
        graph = SceneGraph(**{name: tensor.index_select(0, rows) for name, tensor in vars(graph).items()})
    if shared is not None:
        shared = shared.select(rows)
    return encoded.memory.index_select(0, rows), encoded.memory_mask.index_select(0, rows), graph, shared
