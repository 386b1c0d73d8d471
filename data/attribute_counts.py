"""How often the attributes of each region occur in a training split, in the layout of the attribute axis.

Shapes: R regions, A attribute slots per region (padded).
"""

import numpy as np
from numpy.typing import NDArray

from data.storage.statistics import TrainingStatistics
from data.vocabulary import Vocabularies


def count_attributes(statistics: TrainingStatistics, vocabularies: Vocabularies) -> tuple[NDArray, NDArray]:
    """Return the number of annotated regions with each attribute [R, A], and the number of annotated regions [R].

    Padding slots are 0. `TrainingStatistics` says which regions are annotated.
    """
    attributes = vocabularies.attributes
    positives = np.zeros((len(attributes.by_region), attributes.largest), dtype=np.int64)
    annotated = np.zeros(len(positives), dtype=np.int64)
    for region, name in enumerate(vocabularies.anatomy.names):
        annotated[region] = statistics.annotated.get(name, 0)
        counts = statistics.positives.get(name, {})
        for slot, attribute in enumerate(attributes.by_region[region]):
            positives[region, slot] = counts.get(attribute, 0)
    return positives, annotated
