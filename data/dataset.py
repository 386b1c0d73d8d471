"""A prepared data set as samples: one study at a time, read, augmented and put into numbers."""

import io
import mmap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from data.batch import RegionAnnotation, Sample
from data.errors import UserError
from data.images.boxes import read_boxes
from data.images.image_store import read_image_bytes
from data.images.transforms import Augmentation, inside, normalise, read_squashed
from data.records import MALFORMED_GRAPH, Records, is_frontal, malformed_graph, read_records
from data.text.cleaning import clean
from data.text.sentence_regions import word_regions
from data.vocabulary import Vocabularies

UNCERTAIN_POLICIES = ("positive", "negative", "ignored")

# First numbers of the seeds, so that no two kinds of draws share a stream.
_SUBSET_STREAM, _AUGMENTATION_STREAM = 1, 2


class StudyDataset(Dataset):
    """The studies of one split.

    records  the studies as `read_records` gives them, a sequence of dictionaries
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
        """Read the list of studies; images are read when asked for.

        cleaning, image_size, max_tokens, views, boxes_file   as in `modules.config.DataConfig`
        uncertain      what an uncertain observation counts as: "positive", "negative" or "ignored" (not known)
        augmentation   None: images stay as they are
        limit          use so many studies, drawn with `seed`; None: all
        cache_images   keep squashed images in memory after their first reading, for all worker processes at once
        token_regions  tell of every token which regions its sentence is about

        Raises UserError as `read_records` does, for a boxes file that is missing or malformed, for `uncertain` and
        `cleaning` that are no choice, and for a limit below 1.
        """
        if uncertain not in UNCERTAIN_POLICIES:
            raise UserError(f"data.uncertain={uncertain}: choose one of {', '.join(UNCERTAIN_POLICIES)}")
        if limit is not None and limit < 1:
            raise UserError(f"A limit of {limit} studies leaves none: give at least 1, or null for all")
        clean("", cleaning)
        self.root = Path(root)
        self.records = _limited(read_records(root, split), limit, seed)
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
                f"data.boxes_file={boxes_file} has no box for any study of the split '{split}' of {root}: give a file "
                "of this data set, or choose another eval.box_source"
            )
        self._cache = _ImageCache(len(self.records), views, image_size) if cache_images else None

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation is drawn: it is a function of (seed, epoch, index)."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        """The study at `index`. Raises UserError naming the study where an image or the annotation is unusable."""
        record = self.records[index]
        frontal = is_frontal(record)
        pixels = self._pixels(index, record).float().div_(255)
        regions = self._regions(record, frontal)
        detector_boxes, detector_visible = self._given(record, frontal)
        if self.augmentation is not None:
            generator = np.random.default_rng([_AUGMENTATION_STREAM, self.seed, self.epoch, index])
            changes = [self.augmentation.draw(generator) for _ in pixels]
            pixels = torch.stack([change.image(view) for change, view in zip(changes, pixels, strict=True)])
            regions.boxes, regions.visible = changes[0].boxes(regions.boxes, regions.visible)
            detector_boxes, detector_visible = changes[0].boxes(detector_boxes, detector_visible)
        observations, observations_known = self._observations(record)
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
            token_regions=self._token_regions(reference) if self.token_regions else None,
        )

    def _token_regions(self, reference: str) -> Tensor:
        """[T, R] bool for the ids of the cleaned report: BOS and EOS are about no region."""
        about = torch.from_numpy(word_regions(reference, self.vocabularies.anatomy))[: self.max_tokens - 2]
        nothing = torch.zeros(1, about.shape[1], dtype=torch.bool)
        return torch.cat([nothing, about, nothing])

    def _pixels(self, index: int, record: dict) -> Tensor:
        """[V, H, H] uint8: the study's first images."""
        if self._cache is not None and (cached := self._cache.get(index)) is not None:
            return cached
        pixels = torch.stack([self._read_image(name, record["id"]) for name in record["images"][: self.views]])
        if self._cache is not None:
            self._cache.put(index, pixels)
        return pixels

    def _read_image(self, name: str, study_id: str) -> Tensor:
        """[H, H] uint8: one image of a study."""
        path = self.root / name
        try:
            return read_squashed(io.BytesIO(read_image_bytes(self.root, name)), self.image_size)
        except FileNotFoundError as error:
            raise UserError(f"Study {study_id}: there is no image {path}; prepare the data set again") from error
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "no PNG or JPEG" if unknown else (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"Study {study_id}: the image {path} is damaged ({reason}); "
                "replace it, or remove the study from records.jsonl"
            ) from error

    def _regions(self, record: dict, frontal: bool) -> RegionAnnotation:
        """The annotated scene graph, before augmentation; all unknown without a graph or a frontal image."""
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
        boxes_inside, visible_inside = inside(torch.from_numpy(boxes), torch.from_numpy(visible))
        return RegionAnnotation(
            boxes=boxes_inside,
            visible=visible_inside,
            mentioned=torch.from_numpy(mentioned),
            abnormal=torch.from_numpy(abnormal),
            attributes=torch.from_numpy(attributes),
            graph_known=torch.tensor(graph_known),
            # A graph made from the report alone has no boxes at all: then nobody looked for them.
            boxes_known=visible_inside.any(),
        )

    def _given(self, record: dict, frontal: bool) -> tuple[Tensor, Tensor]:
        """[R, 4] and [R]: the study's boxes of the boxes file, before augmentation."""
        count = len(self.vocabularies.anatomy.regions)
        if not frontal or record["id"] not in self._detector_boxes:
            return torch.zeros(count, 4), torch.zeros(count, dtype=torch.bool)
        boxes = torch.from_numpy(self._detector_boxes[record["id"]])
        return inside(boxes.nan_to_num(), ~boxes.isnan().any(dim=1))

    def _observations(self, record: dict) -> tuple[Tensor, Tensor]:
        """[K] float and [K] bool: the labels by the policy for uncertain ones, and which of them count."""
        names = self.vocabularies.observations
        labels = record["observations"]
        if labels is None:
            return torch.zeros(len(names)), torch.zeros(len(names), dtype=torch.bool)
        for name, value in labels.items():
            if name not in names or value not in (1, 0, -1):
                raise UserError(
                    f"Study {record['id']}: '{name}': {value} is none of the {len(names)} observations with 1, 0 or -1"
                )
        positive = (1, -1) if self.uncertain == "positive" else (1,)
        values = [labels.get(name, 0) for name in names]
        return (
            torch.tensor([float(value in positive) for value in values]),
            torch.tensor([value != -1 or self.uncertain != "ignored" for value in values]),
        )


class _ImageCache:
    """Squashed images of all studies, shared by the loader processes: whichever reads an image first keeps it for all.

    The memory is an anonymous shared mapping: forked workers inherit it, pages cost nothing before they are written,
    and unlike /dev/shm it has no small limit in containers. A process that is spawned instead gets an empty cache.
    """

    def __init__(self, studies: int, views: int, image_size: int):
        self._shape = (studies, views, image_size, image_size)
        self._pixels = _shared_array(self._shape)
        self._view_counts = _shared_array((studies,))  # 0: not read yet

    def __reduce__(self) -> tuple:
        return _ImageCache, self._shape[:3]

    def get(self, index: int) -> Tensor | None:
        """[V, H, H] uint8, or None where the study was not read yet."""
        count = int(self._view_counts[index])
        return torch.from_numpy(self._pixels[index, :count]) if count else None

    def put(self, index: int, pixels: Tensor) -> None:
        """Keep the `pixels` [V, H, H] of a study."""
        self._pixels[index, : len(pixels)] = pixels.numpy()
        self._view_counts[index] = len(pixels)


def _shared_array(shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array of zeros in memory that forked processes share."""
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8).reshape(shape)


def _limited(records: Records, limit: int | None, seed: int) -> Records:
    """`limit` of the `records`, drawn with `seed`, in their own order; all of them where there are no more."""
    if limit is None or limit >= len(records):
        return records
    drawn = np.random.default_rng([_SUBSET_STREAM, seed]).choice(len(records), size=limit, replace=False)
    return records.select(np.sort(drawn).tolist())
