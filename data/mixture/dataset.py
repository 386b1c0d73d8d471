"""Several prepared data sets as one, for training and validation."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils.data import Dataset

from data.batch import RegionAnnotation, Sample
from data.dataset import StudyDataset
from data.errors import UserError, wrong_value
from data.images.image_cache import CacheAddress
from data.mixture.order import Mixture
from data.vocabulary import Vocabularies


class MixedDataset(Dataset):
    """The studies of several data sets, one data set after the other; methods as in `StudyDataset`.

    mixture   how they are mixed in training
    """

    def __init__(self, data_sets: Sequence[StudyDataset], weights: Sequence[float] | None = None):
        """Join the `data_sets`, which have the same vocabularies.

        weights  as in `Mixture`

        Raises UserError if there is not one positive weight for each data set, or if one is so small that its data set
        would never be drawn.
        """
        self.data_sets = tuple(data_sets)
        sizes = tuple(len(each) for each in self.data_sets)
        if weights is not None:
            _check_weights(weights, self.data_sets)
        self.mixture = Mixture(sizes, None if weights is None else tuple(weights))
        for each, draws in zip(self.data_sets, self.mixture.draws_per_epoch, strict=True):
            if draws == 0:
                raise UserError(
                    f"data.weights gives {each.root} none of the {len(self)} studies of an epoch: raise its weight"
                )

    @property
    def vocabularies(self) -> Vocabularies:
        """The common vocabularies."""
        return self.data_sets[0].vocabularies

    @property
    def root(self) -> str:
        """The folders of the data sets, for messages."""
        return ", ".join(str(each.root) for each in self.data_sets)

    def __len__(self) -> int:
        return self.mixture.studies

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        data_set, own_index = self._locate(index)
        return data_set[epoch, own_index]

    def check_files(self) -> None:
        """See `StudyDataset`."""
        for each in self.data_sets:
            each.check_files()

    def study_id(self, index: int) -> str:
        """See `StudyDataset`."""
        data_set, own_index = self._locate(index)
        return data_set.study_id(own_index)

    def data_set_name(self, index: int) -> str:
        """See `StudyDataset`."""
        data_set, own_index = self._locate(index)
        return data_set.data_set_name(own_index)

    def read_reference(self, index: int) -> tuple[str, str | None]:
        """See `StudyDataset`."""
        data_set, own_index = self._locate(index)
        return data_set.read_reference(own_index)

    def read_annotation(self, index: int) -> tuple[RegionAnnotation, Tensor, Tensor]:
        """See `StudyDataset`."""
        data_set, own_index = self._locate(index)
        return data_set.read_annotation(own_index)

    def share_cache(self, gather: Callable[[CacheAddress], list[CacheAddress]]) -> None:
        """See `StudyDataset`."""
        for each in self.data_sets:
            each.share_cache(gather)

    def _locate(self, index: int) -> tuple[StudyDataset, int]:
        """Return the data set of a study, and the study's index in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"study {index} of {len(self)}")
        number = bisect_right(self.mixture.offsets, index) - 1
        return self.data_sets[number], index - self.mixture.offsets[number]


def _check_weights(weights: Sequence[float], data_sets: Sequence[StudyDataset]) -> None:
    if len(weights) != len(data_sets):
        rule = f"needs one weight for each of the {len(data_sets)} training sets of data.root"
        raise wrong_value("data.weights", list(weights), rule)
    if not all(weight > 0 for weight in weights):
        raise wrong_value("data.weights", list(weights), "every weight must be above 0; leave a data set out instead")
