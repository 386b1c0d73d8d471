"""PyTorch dataset of a prepared data set: reads and encodes studies one at a time, and draws their augmentation."""

import io
from collections.abc import Callable
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from data.batch import RegionAnnotation, Sample
from data.context.fields import MOST_INDICATION_TOKENS, StudyContext, encode_text
from data.context.settings import ContextSettings
from data.errors import UserError, damaged, missing, reason, unknown_name, wrong_value
from data.images.boxes import read_boxes
from data.images.image_cache import CacheAddress, ImageCache
from data.images.image_store import read_image_bytes
from data.images.transforms import Augmentation, Perturbation, clip_boxes, read_squashed, warp_side
from data.ontology import CHANGES
from data.records import MALFORMED_GRAPH, Records, graph_is_complete, is_frontal, malformed_graph, read_records
from data.sections.marked_text import BOTH, FINDINGS, cleaned_report, untrained_words
from data.storage.prepared_files import check_sample
from data.text.cleaning import clean
from data.text.sentence_regions import without_remarks, word_comparisons, word_regions
from data.vocabulary import Vocabularies

UNCERTAIN_POLICIES = ("positive", "negative", "ignored")

# The first number of each seed, so that different kinds of draws never share a random stream.
_SUBSET_STREAM, _AUGMENTATION_STREAM = 1, 2


class StudyDataset(Dataset):
    """The studies of one split.

    records  the records of the studies, as returned by `read_records`
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        vocabularies: Vocabularies,
        cleaning: str,
        image_size: int,
        max_tokens: int,
        views: int,
        uncertain: str,
        augmentation: Augmentation | None = None,
        boxes_file: str | Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        cache_images: bool = False,
        token_regions: bool = False,
        stage_dir: str | Path | None = None,
        number: int = 0,
        context: ContextSettings | None = None,
        sections: str = FINDINGS,
    ):
        """Read the records of the split; images are read on access.

        cleaning, image_size, max_tokens, views, boxes_file, stage_dir, sections   as in `modules.config.DataConfig`
        uncertain      how uncertain observations count: "positive", "negative" or "ignored" (as not known)
        augmentation   None leaves images unchanged
        limit          number of studies to use, drawn with `seed`; None uses all
        cache_images   keep decoded images in memory after their first use, shared by all worker processes
        token_regions  also give the regions that the sentence of each token is about
        number         of the data set among several: their augmentations differ
        context        what to read beside the images; None: nothing

        Raises UserError as `read_records` and `read_boxes` do, if `uncertain` or `cleaning` is unknown, if the limit is
        below 1, if the boxes file has no boxes for this split, and if the vocabularies are of a model that writes other
        `sections`.
        """
        if uncertain not in UNCERTAIN_POLICIES:
            raise wrong_value("data.uncertain", uncertain, f"choose one of {', '.join(UNCERTAIN_POLICIES)}")
        if limit is not None and limit < 1:
            raise UserError(f"A limit of {limit} studies leaves none: use at least 1, or null for all")
        clean("", cleaning)  # raises UserError for unknown rules
        if vocabularies.tokenizer.marks_sections != (sections == BOTH):
            raise wrong_value("data.sections", sections, "must be what the model was trained with")
        self.root = Path(root)
        self.records = _draw_subset(read_records(root, split), limit, seed)
        self.vocabularies = vocabularies
        self.cleaning = cleaning
        self.image_size = image_size
        self.max_tokens = max_tokens
        self.views = views
        self.uncertain = uncertain
        self.augmentation = augmentation
        self.seed = seed
        self.number = number
        self.token_regions = token_regions
        self.context = context
        self.sections = sections
        self.stage_dir = None if stage_dir is None else Path(stage_dir)
        # Images that will be warped keep their stored size, so that they are interpolated once.
        self._is_warped = augmentation is not None and augmentation.is_geometric
        self._largest_side = warp_side(image_size / augmentation.crop) if self._is_warped else image_size
        self._detector_boxes = {}
        if boxes_file is not None:
            self._detector_boxes = read_boxes(Path(boxes_file), "data.boxes_file", vocabularies.anatomy)
        if boxes_file is not None and not any(record["id"] in self._detector_boxes for record in self.records):
            raise UserError(
                f"data.boxes_file={boxes_file} has no box for any study of the split '{split}' of {root}: use a file "
                "of this data set, or choose another eval.box_source"
            )
        self._cache = self._prior_cache = None
        if cache_images:
            self._cache = ImageCache(len(self.records), views, self._largest_side)
        if cache_images and context is not None and context.prior:
            self._prior_cache = ImageCache(len(self.records), 1, self._largest_side)

    def __len__(self) -> int:
        return len(self.records)

    def share_cache(self, gather: Callable[[CacheAddress], list[CacheAddress]]) -> None:
        """Use the same image caches in all ranks of a machine, if images are cached; see `ImageCache.share`."""
        if self._cache is not None:
            self._cache = self._cache.share(gather)
        if self._prior_cache is not None:
            self._prior_cache = self._prior_cache.share(gather)

    def check_files(self) -> None:
        """Compare a random sample of the files with the manifest of the data set; see `prepared_files.check_sample`."""
        check_sample(self.root)

    def study_id(self, index: int) -> str:
        """Return the identifier of the study at `index`."""
        return self.records[index]["id"]

    def data_set_name(self, index: int) -> str:
        """Return the name of the data set of the study at `index`, which is that of its folder."""
        return self.root.resolve().name

    def with_reports(self) -> "StudyDataset":
        """Return the studies that have a report; this data set if all have."""
        reported = [index for index in range(len(self)) if self._clean_report(self.records[index]) is not None]
        if len(reported) == len(self):
            return self
        selected = copy(self)
        selected.records = self.records.select(reported)
        selected._cache = selected._prior_cache = None
        return selected

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Return the study at an index, or at (epoch, index).

        The augmentation is a function of (seed, epoch, index); an index alone stands for epoch 0. Raises UserError
        naming the study if an image or the annotation is unusable.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record = self.records[index]
        frontal = is_frontal(record)
        images = self._load_images(self._cache, index, record, self.views)
        regions = self._read_regions(record, frontal)
        detector_boxes, detector_visible = self._detector_boxes_of(record, frontal)
        changes: list[Perturbation] = []
        generator = None
        if self.augmentation is not None:
            numbers = [_AUGMENTATION_STREAM, self.seed, epoch, index] + [self.number] * (self.number > 0)
            generator = np.random.default_rng(numbers)
            changes = [self.augmentation.draw(generator) for _ in images]
            images = [self.augmentation.randomise(image, generator) for image in images]
            regions["boxes"], regions["visible"] = changes[0].apply_to_boxes(regions["boxes"], regions["visible"])
            if detector_visible.any():
                detector_boxes, detector_visible = changes[0].apply_to_boxes(detector_boxes, detector_visible)
        observations, observations_known = self._read_observations(record)
        context = self._read_context(index, record, generator)
        reference = self._clean_report(record)
        if self.augmentation is not None and context is not None and context.has_prior is not None:
            reference, context.unseen_comparison = self._leave_out_comparisons(reference, bool(context.has_prior))
        return Sample(
            study_id=record["id"],
            images=images,
            frontal=frontal,
            regions=RegionAnnotation(**{name: torch.from_numpy(array) for name, array in regions.items()}),
            observations=observations,
            observations_known=observations_known,
            token_ids=self._encode(reference),
            reference=reference or "",
            detector_boxes=torch.from_numpy(detector_boxes),
            detector_visible=torch.from_numpy(detector_visible),
            token_regions=self._find_token_regions(reference) if self.token_regions else None,
            image_size=self.image_size if self._is_warped else None,
            warps=torch.from_numpy(np.stack([change.matrix() for change in changes])) if self._is_warped else None,
            intensities=self._intensities(changes, images),
            context=context,
            untrained_tokens=self._find_untrained(reference) if self.sections == BOTH else None,
        )

    def _read_context(
        self, index: int, record: dict, generator: np.random.Generator | None
    ) -> StudyContext | None:
        """Return the context of a study, None if it is not requested; the augmentation's `generator` hides parts."""
        settings = self.context
        if settings is None:
            return None
        prior = self.records.prior(index)
        hidden = [generator is not None and generator.random() < settings.dropout for _ in range(2)]
        indication = None if hidden[0] else record.get("indication")
        prior = None if hidden[1] or prior is None or not is_frontal(prior) else prior
        context = StudyContext()
        if settings.indication:
            context.indication = self._encode_context(indication, MOST_INDICATION_TOKENS)
        if settings.prior_report:
            context.prior_report = self._encode_context(prior and prior["report"], self.max_tokens)
        if settings.prior:
            image = torch.zeros(self.image_size, self.image_size, dtype=torch.uint8)
            if prior is not None:
                image, = self._load_images(self._prior_cache, index, prior, 1)
            change = None
            if self.augmentation is not None:
                change, image = self.augmentation.draw(generator), self.augmentation.randomise(image, generator)
            context.has_prior, context.prior_image = torch.tensor(prior is not None), image
            context.prior_warp = torch.from_numpy(change.matrix()) if self._is_warped else None
            if (intensities := self._intensities([change], [image])) is not None:
                context.prior_intensities = intensities[0]
        return context

    def _leave_out_comparisons(self, reference: str | None, has_prior: bool) -> tuple[str | None, Tensor]:
        """Return a cleaned report as a model learns it that reads priors, and `StudyContext.unseen_comparison`.

        Without a prior, general remarks on one are removed, unless nothing else is in the report. Sentences that
        compare and state something of this study stay, since without them the model would learn to leave out findings;
        they are marked, so that they are not learned.
        """
        none = torch.zeros(1, dtype=torch.bool)
        if reference is None:
            return None, none
        if not has_prior:
            reference = without_remarks(reference) or reference
        flags = torch.from_numpy(word_comparisons(reference))[: self.max_tokens - 2]
        return reference, torch.cat([none, torch.zeros_like(flags) if has_prior else flags, none])

    def _encode_context(self, text: str | None, most: int) -> Tensor:
        """Return the tokens of a raw text, at most `most` and as many as a report has, [Q] long; none for None."""
        words = "" if text is None else clean(text, self.cleaning)
        return encode_text(words, self.vocabularies.tokenizer, min(most, self.max_tokens))

    def read_reference(self, index: int) -> tuple[str, str | None]:
        """Return the identifier and the complete cleaned report of a study; None if it has no report."""
        record = self.records[index]
        return record["id"], self._clean_report(record)

    def read_annotation(self, index: int) -> tuple[RegionAnnotation, Tensor, Tensor]:
        """Return the regions, observations and observations_known of a study, unaugmented and without its images.

        Raises UserError naming the study if the annotation is unusable.
        """
        record = self.records[index]
        regions = self._read_regions(record, is_frontal(record))
        tensors = {name: torch.from_numpy(array) for name, array in regions.items()}
        return RegionAnnotation(**tensors), *self._read_observations(record)

    def _intensities(self, changes: list[Perturbation], images: list[Tensor]) -> Tensor | None:
        """Return gain and offset of the pixels of each image, [V, 2]; None if the augmentation keeps intensities."""
        if self.augmentation is None or self.augmentation.intensity == 0:
            return None
        return torch.tensor(
            [change.intensities(image.numpy()) for change, image in zip(changes, images, strict=True)]
        )

    def _clean_report(self, record: dict) -> str | None:
        return cleaned_report(record, self.sections, self.cleaning)

    def _encode(self, reference: str | None) -> Tensor:
        """Return the tokens of a cleaned report, [T] long: BOS, words, EOS; BOS alone without a report."""
        tokenizer = self.vocabularies.tokenizer
        ids = [tokenizer.bos_id] if reference is None else tokenizer.encode(reference, self.max_tokens)
        return torch.tensor(ids)

    def _find_untrained(self, reference: str | None) -> Tensor:
        """Return which tokens of a cleaned report in sections are not learned, [T] bool; see `untrained_words`."""
        if reference is None:
            return torch.zeros(1, dtype=torch.bool)
        return torch.tensor([False, *untrained_words(reference.split()[: self.max_tokens - 2])])

    def _find_token_regions(self, reference: str | None) -> Tensor:
        """Return the regions of each token of a cleaned report, [T, R] bool; BOS and EOS have none."""
        none = torch.zeros(1, len(self.vocabularies.anatomy.regions), dtype=torch.bool)
        if reference is None:
            return none
        of_words = torch.from_numpy(word_regions(reference, self.vocabularies.anatomy))[: self.max_tokens - 2]
        return torch.cat([none, of_words, none])

    def _load_images(self, cache: ImageCache | None, index: int, record: dict, most: int) -> list[Tensor]:
        """Return the first images of a study, at most `most`, each [S, S] uint8; `cache` has them under `index`."""
        if cache is not None and (cached := cache.get(index)) is not None:
            return cached
        images = [self._read_image(name, record["id"]) for name in record["images"][:most]]
        if cache is not None:
            cache.put(index, images)
        return images

    def _read_image(self, name: str, study_id: str) -> Tensor:
        """Return one image of a study, [S, S] uint8."""
        path = self.root / name
        try:
            content = read_image_bytes(self.root, name, self.stage_dir)
            return read_squashed(io.BytesIO(content), self.image_size, self._largest_side)
        except FileNotFoundError as error:
            raise missing(f"image of study {study_id}", path, "prepare the data set again") from error
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            why = "not a PNG or JPEG" if isinstance(error, UnidentifiedImageError) else reason(error)
            fix = "replace it, or remove the study from records.jsonl"
            raise damaged(f"Study {study_id}: the image {path}", why, fix) from error

    def _read_regions(self, record: dict, frontal: bool) -> dict[str, NDArray]:
        """Return the annotated scene graph before augmentation: the fields of `RegionAnnotation`, as arrays.

        All is unknown without a graph or a frontal image. Of an incomplete graph, only boxes are known.
        """
        anatomy, vocabulary = self.vocabularies.anatomy, self.vocabularies.attributes
        count = len(anatomy.regions)
        boxes = np.zeros((count, 4), dtype=np.float32)
        visible, mentioned, abnormal, listed = np.zeros((4, count), dtype=bool)
        attributes = np.zeros((count, vocabulary.largest), dtype=bool)
        change = np.full(count, -1)
        has_graph = frontal and record["graph"] is not None
        try:
            graph_known = has_graph and graph_is_complete(record["graph"])
            for name, region in record["graph"]["regions"].items() if has_graph else ():
                position = anatomy.index(name)
                listed[position] = True
                if graph_known:
                    mentioned[position] = region["mentioned"]
                    abnormal[position] = region["abnormal"]
                    slots = (vocabulary.index(position, attribute) for attribute in region["attributes"])
                    attributes[position, [slot for slot in slots if slot is not None]] = True
                    if region.get("change") in CHANGES:
                        change[position] = CHANGES.index(region["change"])
                if region["box"] is not None:
                    boxes[position], visible[position] = region["box"], True
        except MALFORMED_GRAPH as error:
            raise malformed_graph(record, error) from error
        boxes, visible = clip_boxes(boxes, visible)
        # A graph made from the report alone has no boxes: they were not annotated.
        boxes_known = visible.any()
        return {
            "boxes": boxes,
            "visible": visible,
            "mentioned": mentioned,
            "abnormal": abnormal,
            "attributes": attributes,
            "graph_known": np.array(graph_known),
            "boxes_known": np.array(boxes_known),
            "visibility_known": boxes_known & (listed | graph_known),
            "change": change,
        }

    def _detector_boxes_of(self, record: dict, frontal: bool) -> tuple[NDArray, NDArray]:
        """Return the study's boxes from the boxes file before augmentation, [R, 4], and which are present, [R] bool."""
        count = len(self.vocabularies.anatomy.regions)
        if not frontal or record["id"] not in self._detector_boxes:
            return np.zeros((count, 4), dtype=np.float32), np.zeros(count, dtype=bool)
        boxes = self._detector_boxes[record["id"]]
        return clip_boxes(np.nan_to_num(boxes), ~np.isnan(boxes).any(axis=1))

    def _read_observations(self, record: dict) -> tuple[Tensor, Tensor]:
        """Return the labels, [K] float, and which of them count, [K] bool, by the policy for uncertain labels."""
        names = self.vocabularies.observations
        labels = record["observations"]
        if labels is None:
            return torch.zeros(len(names)), torch.zeros(len(names), dtype=torch.bool)
        for name, value in labels.items():
            if name not in names:
                raise unknown_name("observation", name, names, f"Study {record['id']}")
            if value not in (1, 0, -1, None):
                raise wrong_value(f"Study {record['id']}: {name}", value, "must be 1, 0 or -1, or null if unknown")
        positive = (1, -1) if self.uncertain == "positive" else (1,)
        values = [labels.get(name, 0) for name in names]
        return (
            torch.tensor([float(value in positive) for value in values]),
            torch.tensor([value is not None and (value != -1 or self.uncertain != "ignored") for value in values]),
        )


def _draw_subset(records: Records, limit: int | None, seed: int) -> Records:
    """Return `limit` of the `records`, drawn with `seed`, in their original order; all if there are not more."""
    if limit is None or limit >= len(records):
        return records
    indices = np.random.default_rng([_SUBSET_STREAM, seed]).choice(len(records), size=limit, replace=False)
    return records.select(np.sort(indices).tolist())
