"""Grey levels, and the memory that the largest images take."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data.images import grey
from data.images.grey import row_slices, scale_to_8_bits, to_grey


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 500))
def test_bands_cover_every_row_once(height, width, pixels):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grey, "_BAND_PIXELS", pixels)
        rows = [row for band in row_slices((height, width)) for row in range(band.start, band.stop)]
    assert rows == list(range(height))


@given(arrays(np.float32, (5, 4)), st.integers(1, 30))
def test_bands_do_not_change_a_level(values, pixels):
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        with pytest.raises(ValueError, match="no pixel has a value"):
            scale_to_8_bits([values], (5, 4))
        return
    low, high = finite.min(), finite.max()
    exact = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    exact = ((exact - low) * (255 / max(high - low, 1e-6))).round().astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grey, "_BAND_PIXELS", pixels)
        np.testing.assert_array_equal(to_grey(Image.fromarray(values)), exact)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16", "I;16B"])
def test_every_mode_in_bands(mode, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (20, 7), dtype=np.uint8)
    image = Image.fromarray(noise)
    image = image.convert("I").convert(mode) if mode.startswith("I;") else image.convert(mode)
    whole = to_grey(image)
    monkeypatch.setattr(grey, "_BAND_PIXELS", 15)
    np.testing.assert_array_equal(to_grey(image), whole)


@pytest.mark.parametrize("mode", ["L", "RGB", "I", "F", "I;16"])
def test_the_result_and_a_band_are_all_that_is_needed_beside_the_image(mode, monkeypatch):
    monkeypatch.setattr(grey, "_BAND_PIXELS", 2000)
    image = Image.new("I" if mode == "I;16" else mode, (400, 1000)).convert(mode)
    tracemalloc.start()
    to_grey(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Turning an image upright copies the result once more.
    assert peak < 2.5 * 400 * 1000
