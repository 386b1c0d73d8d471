"""Settings of the prepared data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import wrong_value
from data.sections.marked_text import BOTH, FINDINGS


@dataclass
class DataConfig:
    """The prepared data sets and how they are loaded.

    root              folder of the prepared data set (with dataset.yaml and records.jsonl), or a list of several; their
                      folders need different names
    weights           with several data sets, how often each is drawn in training: its share of an epoch, up to a common
                      factor, e.g. [2,1,1]. An epoch has as many draws as there are studies. null: by their sizes
    sections          what a model learns to write: the report's findings, its impression, or both, one after the other
    cleaning          rules for reports: iu_xray, mimic_cxr or corrected
    image_size        side of the square network input, pixels
    max_tokens        maximum length of a report in tokens, counting BOS and EOS
    min_word_count    occurrences in the training split that a word needs to enter the vocabulary
    min_attribute_count   occurrences in the training split that an attribute of a region needs to enter the vocabulary
    views             images per study: 1 (frontal) or 2
    distinct_special_tokens   padding, BOS and EOS have different ids (False: all share id 0, as in the R2Gen family)
    uncertain         uncertain observations count as: positive, negative or ignored
    boxes_file        a detector's JSON lines {"id": study, "boxes": {region: [x1, y1, x2, y2]}}, in 0..1 of the image
    atlas_file        an anatomy.yaml with other atlas boxes; null: the training split's mean boxes, or the shipped ones
                      if it has no boxes
    rotate, translate, scale, intensity   augmentation: degrees, share of the side, relative zoom, relative contrast
                      and brightness
    crop              augmentation: side of a randomly placed crop, as a share of each side; 1: none
    squash            augmentation: relative change of the aspect ratio
    domain_randomisation   share of training images whose exposure, borders, arms, devices and burnt-in text are
                      random (`data/images/domain_randomisation.py`), for training on simulated images
    micro_batch_size  the most studies that a process computes at once; null: all of its share of optim.batch_size.
                      A process divides its share into equal micro-batches and accumulates their gradients
    workers           data loader processes, for each process
    cache_images      keep decoded images in memory (uint8), once for all processes of a machine
    shuffle_window    studies that are read in random order; in a larger training split, a window holds as many from
                      random blocks of 2,048 consecutive ones, so that few image shards are read at a time. null: all
    stage_dir         folder on a local disk to which image shards are copied before their first use; null: none
    most_skipped      studies that may be unreadable: training replaces them, evaluation leaves them out; both name them
    train_limit       number of studies of the training split of each data set to use, drawn with the seed; null: all
    eval_limit        number of studies of the validation and test splits of each data set to use; null: all
    """

    root: Any = "data/phantom"
    weights: list[float] | None = None
    sections: str = FINDINGS
    cleaning: str = "corrected"
    image_size: int = 224
    max_tokens: int = 100
    min_word_count: int = 3
    min_attribute_count: int = 10
    views: int = 1
    distinct_special_tokens: bool = True
    uncertain: str = "positive"
    boxes_file: str | None = None
    atlas_file: str | None = None
    rotate: float = 10.0
    translate: float = 0.0
    scale: float = 0.0
    intensity: float = 0.0
    crop: float = 1.0
    squash: float = 0.0
    domain_randomisation: float = 0.0
    micro_batch_size: int | None = None
    workers: int = 8
    cache_images: bool = False
    shuffle_window: int | None = 32768
    stage_dir: str | None = None
    most_skipped: int = 10
    train_limit: int | None = None
    eval_limit: int | None = None

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders of all prepared data sets."""
        return tuple(Path(str(folder)) for folder in (self.root if isinstance(self.root, list) else [self.root]))


def check_roots(data: DataConfig) -> None:
    """Raise UserError if `data.root` does not name folders with different names."""
    folders = data.root if isinstance(data.root, list) else [data.root]
    if not folders or not all(isinstance(folder, str | int | float | Path) for folder in folders):
        raise wrong_value("data.root", data.root, "must be a folder, or a list of folders: data.root=[FOLDER,FOLDER]")
    # A single folder has no namesake; `.` may not exist any more.
    names = [folder.resolve().name for folder in data.roots] if len(data.roots) > 1 else []
    if len(set(names)) < len(names):
        rule = "scores name data sets by their folders, so every folder needs another name"
        raise wrong_value("data.root", ", ".join(map(str, data.roots)), rule)


# BOS, a marker and a word of each section, EOS.
_LEAST_TOKENS_OF_SECTIONS = 6


def check_sections(data: DataConfig) -> None:
    """Raise UserError if reports in sections would have no room for both."""
    if data.sections == BOTH and data.max_tokens < _LEAST_TOKENS_OF_SECTIONS:
        rule = f"must be at least {_LEAST_TOKENS_OF_SECTIONS} with data.sections={BOTH}"
        raise wrong_value("data.max_tokens", data.max_tokens, rule)
