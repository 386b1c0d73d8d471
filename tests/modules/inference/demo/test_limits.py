"""The stated limits hold for what a page keeps."""

import numpy as np

from modules.inference.demo import limits, studies
from tests.support.images.image_files import encoded


def test_a_page_with_the_largest_image_stays_below_its_stated_memory():
    noise = np.random.default_rng(0).integers(0, 256, (studies.DISPLAY_SIDE, studies.DISPLAY_SIDE), dtype=np.uint8)
    image = len(studies._data_url(noise)) + len(studies._data_url(noise, studies.PRIOR_DISPLAY_SIDE))
    # The open study and its results, which contain the image, if none of them is read: three messages per result.
    results = 1 + (limits.MAX_UNREAD_MESSAGES + 3) // 3
    rest = 2**18  # the pixels that the model sees, and the predictions
    assert 1.4 * len(encoded(noise, "JPEG", quality=92)) < image
    assert results * image + results * rest < limits.MAX_PAGE_BYTES
