"""A model without weights that records its inputs."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from data.dataset import StudyDataset
from data.loaders import StudyLoader, evaluation_loader
from data.vocabulary import Vocabularies
from models.outputs import Encoded, Generation, GraphSource, ModelInputs, SceneGraph


class FakePatchEncoder(nn.Module):
    """Sixteen patches per view with three channels: brightness, its square, and one."""

    def forward(self, images: Tensor, view_mask: Tensor) -> SimpleNamespace:
        grey = images[:, :, 0]  # [B, V, H, H]
        patches = nn.functional.adaptive_avg_pool2d(grey, 4).flatten(2)  # [B, V, 16]
        tokens = torch.stack([patches, patches**2, torch.ones_like(patches)], dim=-1)
        return SimpleNamespace(
            tokens=tokens.flatten(1, 2), mask=view_mask.unsqueeze(-1).expand(-1, -1, 16).flatten(1)
        )


class FakeModel(nn.Module):
    """Generates one of `texts`, and random values for the rest, as a function of the image's brightness.

    seen    the inputs of every call of `generate`; modes: whether it was in training mode
    with_graph, with_observations   whether it has these outputs
    """

    def __init__(
        self, vocabularies: Vocabularies, texts: list[str], with_graph: bool = True, with_observations: bool = True
    ):
        super().__init__()
        self.vocabularies = vocabularies
        self.texts = texts
        self.with_graph = with_graph
        self.with_observations = with_observations
        self.patch_encoder = FakePatchEncoder()
        self.frozen = nn.Dropout().eval()
        thresholds = torch.full((len(vocabularies.anatomy.regions),), 0.2)
        self.graph = None if not with_graph else SimpleNamespace(
            region_thresholds=thresholds, attribute_thresholds=torch.full((len(thresholds), 1), 0.5),
            tuned_thresholds=False,
        )
        self.seen: list[ModelInputs] = []
        self.modes: list[bool] = []

    def generate(
        self, inputs: ModelInputs, *, graph_source: GraphSource, box_source: str, beam_size: int, max_tokens: int,
        with_region_attention: bool, excluded_ids: tuple[int, ...] = (),
    ) -> Generation:
        """Return the texts without the `excluded_ids`, and seeded random numbers for the rest."""
        self.seen.append(inputs)
        self.modes.append(self.training)
        tokenizer = self.vocabularies.tokenizer
        brightness = [int(image.double().sum().item() * 1000) for image in inputs.images[:, 0]]
        texts = [self.texts[number % len(self.texts)] for number in brightness]
        rows = [
            [token for token in tokenizer.encode(text, max_tokens)[1:] if token not in excluded_ids] for text in texts
        ]
        token_ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_id)
        for row, ids in zip(token_ids, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        encoded = Encoded(memory=torch.zeros(len(rows), 1, 1), memory_mask=torch.ones(len(rows), 1, dtype=torch.bool))
        regions, slots = len(self.vocabularies.anatomy.regions), self.vocabularies.attributes.largest
        numbers = torch.stack([
            torch.randn(regions, slots + 6, generator=torch.Generator().manual_seed(number % 2**31))
            for number in brightness
        ])
        if self.with_observations:
            encoded.observation_logits = numbers[:, : len(self.vocabularies.observations), 0]
        if self.with_graph:
            encoded.region_logits, encoded.visible_logits = numbers[..., 1], numbers[..., 2]
            encoded.boxes = numbers[..., 3:7].sigmoid().sort(dim=-1).values
            encoded.graph = self._graph(inputs, encoded, graph_source)
            if encoded.graph is not None:
                encoded.attribute_logits, encoded.attribute_regions = numbers[..., 6:], encoded.graph.selected
        attention = None
        if encoded.graph is not None:  # every token attends equally to all sub-graphs
            selected = encoded.graph.selected.float().unsqueeze(1).expand(-1, token_ids.shape[1], -1)
            attention = selected / selected.sum(-1, keepdim=True).clamp(min=1)
        log_probs = torch.stack([
            -torch.rand(max_tokens, generator=torch.Generator().manual_seed(number % 2**31)) for number in brightness
        ])[:, : token_ids.shape[1]]
        return Generation(token_ids, -torch.ones(len(rows)), log_probs, encoded, attention)

    def _graph(self, inputs: ModelInputs, encoded: Encoded, graph_source: GraphSource) -> SceneGraph | None:
        if graph_source == GraphSource.NONE:
            return None
        selected = (encoded.region_logits > 1) & (encoded.visible_logits > 0)
        if graph_source == GraphSource.ORACLE:
            selected = inputs.annotation.mentioned
        nothing = torch.zeros(*selected.shape, 1)
        return SceneGraph(selected, encoded.boxes, nothing.bool(), nothing, nothing.unsqueeze(-1), nothing.bool())


def loader_over(dataset: StudyDataset, batch_size: int = 2, rank: int = 0, world_size: int = 1) -> StudyLoader:
    """The studies of `dataset` in order."""
    return evaluation_loader(dataset, batch_size, 0, rank, world_size, dataset.vocabularies.tokenizer.pad_id, False)
