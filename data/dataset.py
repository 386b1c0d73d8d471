"""PyTorch dataset of a prepared data set: reads studies one at a time, augments and encodes them."""

import io
import mmap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from data.batch import RegionAnnotation, Sample
from data.errors import UserError, damaged, missing, reason, unknown_name, wrong_value
from data.images.boxes import read_boxes
from data.images.image_store import read_image_bytes
from data.images.transforms import Augmentation, clip_boxes, normalise, read_squashed
from data.records import MALFORMED_GRAPH, Records, is_frontal, malformed_graph, read_records
from data.text.cleaning import clean
from data.text.sentence_regions import word_regions
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
    ):
        """Read the records of the split; images are read on access.

        cleaning, image_size, max_tokens, views, boxes_file   as in `modules.config.DataConfig`
        uncertain      how uncertain observations count: "positive", "negative" or "ignored" (as not known)
        augmentation   None leaves images unchanged
        limit          number of studies to use, drawn with `seed`; None uses all
        cache_images   keep resized images in memory after their first use, shared by all worker processes
        token_regions  also give the regions that the sentence of each token is about

        Raises UserError as `read_records` and `read_boxes` do, if `uncertain` or `cleaning` is unknown, if the limit is
        below 1, and if the boxes file has no boxes for this split.
        """
        if uncertain not in UNCERTAIN_POLICIES:
            raise wrong_value("data.uncertain", uncertain, f"choose one of {', '.join(UNCERTAIN_POLICIES)}")
        if limit is not None and limit < 1:
            raise UserError(f"A limit of {limit} studies leaves none: use at least 1, or null for all")
        clean("", cleaning)  # raises UserError for unknown rules
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
        self.token_regions = token_regions
        self.epoch = 0
        self._detector_boxes = {}
        if boxes_file is not None:
            self._detector_boxes = read_boxes(Path(boxes_file), "data.boxes_file", vocabularies.anatomy)
        if boxes_file is not None and not any(record["id"] in self._detector_boxes for record in self.records):
            raise UserError(
                f"data.boxes_file={boxes_file} has no box for any study of the split '{split}' of {root}: use a file "
                "of this data set, or choose another eval.box_source"
            )
        self._cache = _ImageCache(len(self.records), views, image_size) if cache_images else None

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the augmentation depends: it is a function of (seed, epoch, index)."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        """Return the study at `index`. Raises UserError naming the study if an image or the annotation is unusable."""
        record = self.records[index]
        frontal = is_frontal(record)
        pixels = self._load_images(index, record).float().div_(255)
        regions = self._read_regions(record, frontal)
        detector_boxes, detector_visible = self._detector_boxes_of(record, frontal)
        if self.augmentation is not None:
            generator = np.random.default_rng([_AUGMENTATION_STREAM, self.seed, self.epoch, index])
            changes = [self.augmentation.draw(generator) for _ in pixels]
            pixels = torch.stack([change.apply_to_image(view) for change, view in zip(changes, pixels, strict=True)])
            regions.boxes, regions.visible = changes[0].apply_to_boxes(regions.boxes, regions.visible)
            detector_boxes, detector_visible = changes[0].apply_to_boxes(detector_boxes, detector_visible)
        observations, observations_known = self._read_observations(record)
        reference = clean(record["report"], self.cleaning)
        return Sample(
            study_id=record["id"],
            images=normalise(pixels),
            frontal=frontal,
            regions=regions,
            observations=observations,
            observations_known=observations_known,
            token_ids=torch.tensor(self.vocabularies.tokenizer.encode(reference, self.max_tokens)),
            reference=reference,
            detector_boxes=detector_boxes,
            detector_visible=detector_visible,
            token_regions=self._find_token_regions(reference) if self.token_regions else None,
        )

    def _find_token_regions(self, reference: str) -> Tensor:
        """Return the regions of each token of a cleaned report, [T, R] bool; BOS and EOS have none."""
        of_words = torch.from_numpy(word_regions(reference, self.vocabularies.anatomy))[: self.max_tokens - 2]
        none = torch.zeros(1, of_words.shape[1], dtype=torch.bool)
        return torch.cat([none, of_words, none])

    def _load_images(self, index: int, record: dict) -> Tensor:
        """Return the first images of the study, [V, H, H] uint8."""
        if self._cache is not None and (cached := self._cache.get(index)) is not None:
            return cached
        pixels = torch.stack([self._read_image(name, record["id"]) for name in record["images"][: self.views]])
        if self._cache is not None:
            self._cache.put(index, pixels)
        return pixels

    def _read_image(self, name: str, study_id: str) -> Tensor:
        """Return one image of a study, [H, H] uint8."""
        path = self.root / name
        try:
            return read_squashed(io.BytesIO(read_image_bytes(self.root, name)), self.image_size)
        except FileNotFoundError as error:
            raise missing(f"image of study {study_id}", path, "prepare the data set again") from error
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            why = "not a PNG or JPEG" if isinstance(error, UnidentifiedImageError) else reason(error)
            fix = "replace it, or remove the study from records.jsonl"
            raise damaged(f"Study {study_id}: the image {path}", why, fix) from error

    def _read_regions(self, record: dict, frontal: bool) -> RegionAnnotation:
        """Return the annotated scene graph before augmentation; all unknown without a graph or a frontal image."""
        anatomy, vocabulary = self.vocabularies.anatomy, self.vocabularies.attributes
        count = len(anatomy.regions)
        boxes = np.zeros((count, 4), dtype=np.float32)
        visible, mentioned, abnormal = np.zeros((3, count), dtype=bool)
        attributes = np.zeros((count, vocabulary.largest), dtype=bool)
        graph_known = frontal and record["graph"] is not None
        try:
            for name, region in record["graph"]["regions"].items() if graph_known else ():
                position = anatomy.index(name)
                mentioned[position] = region["mentioned"]
                abnormal[position] = region["abnormal"]
                slots = (vocabulary.index(position, attribute) for attribute in region["attributes"])
                attributes[position, [slot for slot in slots if slot is not None]] = True
                if region["box"] is not None:
                    boxes[position], visible[position] = region["box"], True
        except MALFORMED_GRAPH as error:
            raise malformed_graph(record, error) from error
        clipped_boxes, still_visible = clip_boxes(torch.from_numpy(boxes), torch.from_numpy(visible))
        return RegionAnnotation(
            boxes=clipped_boxes,
            visible=still_visible,
            mentioned=torch.from_numpy(mentioned),
            abnormal=torch.from_numpy(abnormal),
            attributes=torch.from_numpy(attributes),
            graph_known=torch.tensor(graph_known),
            # A graph made from the report alone has no boxes: they were not annotated.
            boxes_known=still_visible.any(),
        )

    def _detector_boxes_of(self, record: dict, frontal: bool) -> tuple[Tensor, Tensor]:
        """Return the study's boxes from the boxes file before augmentation, [R, 4], and which are present, [R] bool."""
        count = len(self.vocabularies.anatomy.regions)
        if not frontal or record["id"] not in self._detector_boxes:
            return torch.zeros(count, 4), torch.zeros(count, dtype=torch.bool)
        boxes = torch.from_numpy(self._detector_boxes[record["id"]])
        return clip_boxes(boxes.nan_to_num(), ~boxes.isnan().any(dim=1))

    def _read_observations(self, record: dict) -> tuple[Tensor, Tensor]:
        """Return the labels, [K] float, and which of them count, [K] bool, by the policy for uncertain labels."""
        names = self.vocabularies.observations
        labels = record["observations"]
        if labels is None:
            return torch.zeros(len(names)), torch.zeros(len(names), dtype=torch.bool)
        for name, value in labels.items():
            if name not in names:
                raise unknown_name("observation", name, names, f"Study {record['id']}")
            if value not in (1, 0, -1):
                raise wrong_value(f"Study {record['id']}: {name}", value, "must be 1, 0 or -1")
        positive = (1, -1) if self.uncertain == "positive" else (1,)
        values = [labels.get(name, 0) for name in names]
        return (
            torch.tensor([float(value in positive) for value in values]),
            torch.tensor([value != -1 or self.uncertain != "ignored" for value in values]),
        )


class _ImageCache:
    """Resized images of all studies, shared by the loader's processes: an image is read once for all of them.

    The memory is an anonymous shared mapping. Forked workers inherit it, pages cost nothing before they are written,
    and unlike /dev/shm it has no small limit in containers. A spawned process gets an empty cache of its own.
    """

    def __init__(self, studies: int, views: int, image_size: int):
        self._shape = (studies, views, image_size, image_size)
        self._pixels = _shared_array(self._shape)
        self._view_counts = _shared_array((studies,))  # 0: not cached yet

    def __reduce__(self) -> tuple:
        return _ImageCache, self._shape[:3]

    def get(self, index: int) -> Tensor | None:
        """Return the images of a study, [V, H, H] uint8; None if they are not cached yet."""
        count = int(self._view_counts[index])
        return torch.from_numpy(self._pixels[index, :count]) if count else None

    def put(self, index: int, pixels: Tensor) -> None:
        """Store the images of a study, [V, H, H] uint8."""
        self._pixels[index, : len(pixels)] = pixels.numpy()
        self._view_counts[index] = len(pixels)


def _shared_array(shape: tuple[int, ...]) -> np.ndarray:
    """Return a uint8 array of zeros in memory that forked processes share."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8).reshape(shape)


def _draw_subset(records: Records, limit: int | None, seed: int) -> Records:
    """Return `limit` of the `records`, drawn with `seed`, in their original order; all if there are not more."""
    if limit is None or limit >= len(records):
        return records
    indices = np.random.default_rng([_SUBSET_STREAM, seed]).choice(len(records), size=limit, replace=False)
    return records.select(np.sort(indices).tolist())
