"""DICOM files of all kinds: grey levels, views, warnings and errors. The files are written by the tests."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data.errors import UserError
from data.images.dicom import looks_like_dicom, read_dicom
from tests.support.images.dicom_files import EVEN, RAMP, dicom


def compressed(frame, syntax, pixels=RAMP, **elements):
    """A file, as bytes, with the encoded `frame` as its pixels; shape and depth are those of `pixels`."""
    return dicom(pixels, syntax, PixelData=encapsulate([frame]), **elements)


def read(content, window=False):
    return read_dicom(io.BytesIO(content), "invented.dcm", window)


def sequence(**elements):
    """A sequence with one item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return [item]


# Grey levels


def test_grey_values_are_stretched_and_equalised():
    image = read(dicom())
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, EVEN)
    assert image.view == "" and image.warnings == ()


def test_equalisation_follows_the_number_of_darker_pixels():
    pixels = np.array([[0, 0, 0, 0], [10, 20, 20, 4000]], dtype=np.uint16)
    # Scaled, 10 and 20 of 4000 become level 1 of 255. Of the 4 pixels above the darkest level, 3 are at level 1.
    np.testing.assert_array_equal(read(dicom(pixels)).pixels, [[0, 0, 0, 0], [191, 191, 191, 255]])


def test_monochrome1_is_inverted_once():
    for shape in (None, "IDENTITY", "INVERSE"):
        elements = {} if shape is None else {"PresentationLUTShape": shape}
        image = read(dicom(PhotometricInterpretation="MONOCHROME1", **elements))
        np.testing.assert_array_equal(image.pixels, 255 - EVEN)
        np.testing.assert_array_equal(read(dicom(**elements)).pixels, EVEN)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_the_transfer_syntax_makes_no_difference(syntax):
    if syntax == RLELossless:
        # Two segments, high bytes and low bytes, each as one literal run.
        high, low = ((RAMP.ravel() >> shift).astype(np.uint8).tobytes() for shift in (8, 0))
        runs = [bytes([15]) + high + b"\0", bytes([15]) + low + b"\0"]
        header = np.array([2, 64, 64 + len(runs[0]), *[0] * 13], dtype="<u4").tobytes()
        content = compressed(header + b"".join(runs), RLELossless)
    else:
        content = dicom(syntax=syntax)
    np.testing.assert_array_equal(read(content).pixels, EVEN)


def test_signed_values():
    np.testing.assert_array_equal(read(dicom(RAMP.astype(np.int16) - 2000)).pixels, EVEN)


def test_twelve_bits_in_sixteen_without_sign_extension():
    np.testing.assert_array_equal(read(dicom((RAMP.astype(np.int16) - 2000) & 0x0FFF, PixelRepresentation=1)).pixels,
                                  EVEN)


def test_overlays_in_unused_bits_are_ignored():
    np.testing.assert_array_equal(read(dicom(RAMP | 0x8000)).pixels, EVEN)


def test_eight_bits():
    np.testing.assert_array_equal(read(dicom((RAMP // 16).astype(np.uint8))).pixels, EVEN)


def test_all_sixteen_bits():
    pixels = np.array([[0, 30000], [60000, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(read(dicom(pixels, BitsStored=16, HighBit=15)).pixels, [[0, 85], [170, 255]])


def test_a_blank_picture_stays_blank():
    np.testing.assert_array_equal(read(dicom(np.full((3, 5), 7, np.uint16))).pixels, np.zeros((3, 5)))


def test_a_falling_slope_inverts():
    image = read(dicom(RescaleSlope="-1", RescaleIntercept="4095"))
    np.testing.assert_array_equal(image.pixels, 255 - EVEN)


def test_a_modality_table_is_applied():
    # Reverses the values of the ramp, whose minimum is 100.
    reverse = np.arange(4000, -1, -1, dtype="<u2").tobytes()
    table = sequence(LUTDescriptor=[4001, 100, 16], LUTData=reverse, ModalityLUTType="US")
    np.testing.assert_array_equal(read(dicom(ModalityLUTSequence=table)).pixels, 255 - EVEN)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [{"PixelPaddingValue": 0}, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 5}])
def test_padding_takes_no_part_and_is_black(photometric, padding):
    collimated = np.pad(RAMP, 2, constant_values=padding.get("PixelPaddingRangeLimit", 0))
    pixels = read(dicom(collimated, PhotometricInterpretation=photometric, **padding)).pixels
    np.testing.assert_array_equal(pixels[2:-2, 2:-2], EVEN if photometric == "MONOCHROME2" else 255 - EVEN)
    assert pixels.sum() == pixels[2:-2, 2:-2].sum()


def test_signed_padding_written_as_unsigned():
    collimated = np.pad(RAMP.astype(np.int16), 1, constant_values=-2000)
    pixels = read(dicom(collimated, BitsStored=16, HighBit=15, PixelPaddingValue=-2000)).pixels
    np.testing.assert_array_equal(pixels[1:-1, 1:-1], EVEN)
    content = dicom(collimated, BitsStored=16, HighBit=15, PixelPaddingValue=-2000)
    unsigned = content.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US")
    assert unsigned != content
    np.testing.assert_array_equal(read(unsigned).pixels, pixels)


@pytest.mark.parametrize("written", ["monochrome1", "MONOCHROME1  "])
def test_the_photometric_interpretation_in_other_spellings(written):
    np.testing.assert_array_equal(read(dicom(PhotometricInterpretation=written)).pixels, 255 - EVEN)


def test_bands_of_rows_do_not_change_a_level(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 4096, (30, 20)).astype(np.uint16)
    colours = np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)
    whole = [read(content).pixels for content in (dicom(pixels), dicom(colours))]
    monkeypatch.setattr("data.images.grey._BAND_PIXELS", 50)
    for content, expected in zip((dicom(pixels), dicom(colours)), whole, strict=True):
        np.testing.assert_array_equal(read(content).pixels, expected)


def test_padding_everywhere_is_no_padding():
    assert read(dicom(np.full((2, 2), 7, np.uint16), PixelPaddingValue=7)).pixels.max() == 0
    np.testing.assert_array_equal(read(dicom(PixelPaddingValue=0, PixelPaddingRangeLimit=4095)).pixels, EVEN)


def test_the_first_of_several_frames():
    image = read(dicom(NumberOfFrames=2, PixelData=RAMP.tobytes() + RAMP[::-1].tobytes()))
    np.testing.assert_array_equal(image.pixels, EVEN)
    assert image.warnings == ("first of several frames",)


# Windows


@pytest.mark.parametrize(("elements", "expected"), [
    # By the standard's formula, y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255, for x = 1000, 2000 and 3000.
    ({"WindowCenter": "2000.5", "WindowWidth": "2001"}, [0, 128, 255]),
    ({"WindowCenter": "2000.5", "WindowWidth": "4001"}, [64, 128, 191]),
    ({"WindowCenter": "2000", "WindowWidth": "4000", "VOILUTFunction": "LINEAR_EXACT"}, [64, 128, 191]),
    ({"WindowCenter": "2000", "WindowWidth": "4000", "VOILUTFunction": "SIGMOID"}, [69, 128, 186]),
    ({"WindowCenter": "2000", "WindowWidth": "4000", "VOILUTFunction": "linear_exact "}, [64, 128, 191]),
    ({"WindowCenter": "2000", "WindowWidth": "4000", "VOILUTFunction": "Linear Exact"}, [64, 128, 191]),
    ({"WindowCenter": "2000", "WindowWidth": "4000", "VOILUTFunction": " Sigmoid"}, [69, 128, 186]),
    ({"WindowCenter": "2000", "WindowWidth": "4000", "VOILUTFunction": ["SIGMOID", "LINEAR"]}, [69, 128, 186]),
    ({"WindowCenter": "2000", "WindowWidth": "4000", "VOILUTFunction": ["sigmoid", "sigmoid"]}, [69, 128, 186]),
    ({"WindowCenter": "2000", "WindowWidth": "1"}, [0, 255, 255]),
    ({"WindowCenter": ["2000.5", "9"], "WindowWidth": ["4001", "9"]}, [64, 128, 191]),
    # Windows act on rescaled values: here twice the stored ones.
    ({"WindowCenter": "4000.5", "WindowWidth": "4001", "RescaleSlope": "2", "RescaleIntercept": "0"}, [0, 128, 255]),
    ({"WindowCenter": "2000.5", "WindowWidth": "4001", "PhotometricInterpretation": "MONOCHROME1"}, [191, 128, 64]),
])
def test_a_window(elements, expected):
    pixels = np.array([[1000, 2000, 3000]], dtype=np.uint16)
    assert np.abs(read(dicom(pixels, **elements), window=True).pixels.astype(int) - expected).max() <= 1


def test_a_table_of_interest_is_preferred_to_a_window():
    table = sequence(LUTDescriptor=[3, 1000, 10], LUTData=np.array([0, 341, 1023], dtype="<u2").tobytes())
    content = dicom(np.array([[999, 1000, 1001, 1002, 1003]], dtype=np.uint16), VOILUTSequence=table,
                    WindowCenter="0", WindowWidth="10")
    np.testing.assert_array_equal(read(content, window=True).pixels, [[0, 0, 85, 255, 255]])


def test_a_window_is_used_only_when_asked_for():
    np.testing.assert_array_equal(read(dicom(WindowCenter="500", WindowWidth="3")).pixels, EVEN)


@pytest.mark.parametrize("elements", [{}, {"WindowCenter": "5", "WindowWidth": "0"}, {"WindowCenter": "5"}])
def test_without_a_usable_window_it_is_as_if_not_asked_for(elements):
    np.testing.assert_array_equal(read(dicom(**elements), window=True).pixels, EVEN)


# Colours


def test_colours_become_grey():
    pixels = np.array([[[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 255]]], dtype=np.uint8)
    # Luminances 0, 76, 150 and 255, equalised.
    np.testing.assert_array_equal(read(dicom(pixels)).pixels, [[0, 85, 170, 255]])


def test_luminance_and_colour_differences():
    pixels = np.full((1, 4, 3), 128, dtype=np.uint8)
    pixels[0, :, 0] = [0, 76, 150, 255]
    np.testing.assert_array_equal(read(dicom(pixels, PhotometricInterpretation="YBR_FULL")).pixels, [[0, 85, 170, 255]])


def test_a_palette():
    shades = np.linspace(65535, 0, 4).astype("<u2").tobytes()
    tables = {f"{colour}PaletteColorLookupTable{part}": value for colour in ("Red", "Green", "Blue")
              for part, value in (("Descriptor", [4, 0, 16]), ("Data", shades))}
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    image = read(dicom(pixels, PhotometricInterpretation="PALETTE COLOR", **tables))
    np.testing.assert_array_equal(image.pixels, [[255, 170], [85, 0]])


# Compressed


@pytest.mark.parametrize(("syntax", "lossless"), [(JPEG2000Lossless, True), (JPEG2000, False)])
def test_jpeg_2000(syntax, lossless):
    ramp = np.tile(np.linspace(0, 4080, 64).astype(np.uint16), (64, 1))
    encoded = io.BytesIO()
    Image.fromarray(ramp).save(encoded, "JPEG2000", irreversible=not lossless, no_jp2=True)
    content = compressed(encoded.getvalue(), syntax, ramp, BitsStored=16, HighBit=15)
    difference = read(content).pixels.astype(int) - read(dicom(ramp, BitsStored=16, HighBit=15)).pixels
    assert np.abs(difference).max() <= (0 if lossless else 3)


def test_jpeg_of_eight_bits():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    encoded = io.BytesIO()
    Image.fromarray(ramp).save(encoded, "JPEG", quality=95)
    content = compressed(encoded.getvalue(), JPEGBaseline8Bit, ramp)
    assert np.abs(read(content).pixels.astype(int) - read(dicom(ramp)).pixels).max() <= 8


@pytest.mark.parametrize(("syntax", "packages"), [
    (JPEGLosslessSV1, "pylibjpeg pylibjpeg-libjpeg"), (JPEGLSLossless, "pylibjpeg pylibjpeg-libjpeg"),
    (JPEGExtended12Bit, "pylibjpeg pylibjpeg-libjpeg"),
])
def test_a_missing_decoder_is_named(syntax, packages):
    if set(get_decoder(syntax).available_plugins) - {"pillow"}:
        pytest.skip(f"a decoder of {syntax.name} is installed")
    with pytest.raises(UserError, match=rf"^invented\.dcm stores its pixels as JPEG.*: pip install {packages} to"):
        read(compressed(b"\xff\xd8\xff\xd9", syntax))


def test_a_syntax_that_nothing_decodes():
    with pytest.raises(UserError, match=r"stores its pixels as MPEG2 .* cannot be read: convert it"):
        read(compressed(b"\0\0", MPEG2MPML))


# Views and warnings


@pytest.mark.parametrize(("elements", "view"), [
    ({"ViewPosition": "PA"}, "PA"), ({"ViewPosition": " ap "}, "AP"), ({"ViewPosition": "LL"}, "LL"),
    ({"ViewPosition": ""}, ""), ({"ViewPosition": "", "PatientOrientation": ["L", "F"]}, "FRONTAL"),
    ({"PatientOrientation": ["R", "F"]}, "FRONTAL"), ({"PatientOrientation": ["P", "F"]}, "LATERAL"),
    ({"PatientOrientation": ["AL", "F"]}, "LATERAL"), ({"PatientOrientation": ""}, ""),
    ({"PatientOrientation": ["F", "L"]}, "FRONTAL"), ({"PatientOrientation": ["H", "P"]}, "LATERAL"),
    ({"ViewPosition": "AP", "PatientOrientation": ["P", "F"]}, "AP"),
    ({"ViewCodeSequence": sequence(CodeValue="R-10214", CodeMeaning="any")}, "PA"),
    ({"ViewCodeSequence": sequence(CodeValue="399348003")}, "AP"),
    ({"ViewCodeSequence": sequence(CodeValue="?", CodeMeaning="Left Lateral")}, "LL"),
    ({"ViewCodeSequence": sequence(CodeMeaning="left anterior oblique")}, "LEFT ANTERIOR OBLIQUE"),
    ({"ViewCodeSequence": sequence(CodingSchemeDesignator="SCT"), "PatientOrientation": ["L", "F"]}, "FRONTAL"),
    ({"ViewCodeSequence": [], "PatientOrientation": ["L", "F"]}, "FRONTAL"),
])
def test_the_view(elements, view):
    assert read(dicom(**elements)).view == view


@pytest.mark.parametrize(("elements", "warning"), [
    ({"PresentationIntentType": "FOR PROCESSING"}, "meant for processing, not for presentation"),
    ({"SOPClassUID": DigitalXRayImageStorageForProcessing}, "meant for processing, not for presentation"),
    ({"BurnedInAnnotation": "YES"}, "annotation burnt in"),
    ({"FieldOfViewHorizontalFlip": "YES"}, "field of view mirrored"),
    ({"FieldOfViewHorizontalFlip": "yes "}, "field of view mirrored"),
    ({"PresentationIntentType": " For Processing"}, "meant for processing, not for presentation"),
])
def test_doubts(elements, warning):
    assert read(dicom(**elements)).warnings == (warning,)


def test_no_doubts_without_a_reason():
    elements = {"PresentationIntentType": "FOR PRESENTATION", "BurnedInAnnotation": "NO", "NumberOfFrames": 1}
    assert read(dicom(**elements)).warnings == ()


# Recognising DICOM, and errors


def test_files_without_the_preamble_are_recognised():
    whole = dicom(syntax=ImplicitVRLittleEndian)
    dataset_alone = whole[whole.index(b"\x08\x00\x16\x00") :]
    assert looks_like_dicom(whole) and looks_like_dicom(whole[132:]) and looks_like_dicom(dataset_alone)
    np.testing.assert_array_equal(read(whole[132:]).pixels, EVEN)
    np.testing.assert_array_equal(read(dataset_alone).pixels, EVEN)


def test_what_a_file_says_is_not_logged(caplog, recwarn):
    content = dicom(ViewPosition="PA").replace(b"CS\x02\x00PA", b"CS\x02\x00p?")
    assert read(content).view == "P?"
    assert caplog.text == "" and not recwarn.list


@pytest.mark.parametrize("head", [b"", b"DICM", b"\x08\x00", b"\x89PNG\r\n\x1a\n" + b"\0" * 200, b"\xff\xd8" * 90])
def test_other_files_are_not_dicom(head):
    assert not looks_like_dicom(head)


@pytest.mark.parametrize(("elements", "message"), [
    ({"PixelData": None}, "is a DICOM file without pixels"),
    ({"Rows": None}, "is a DICOM file without Rows"),
    ({"PhotometricInterpretation": None}, "is a DICOM file without PhotometricInterpretation"),
    ({"Rows": 60000, "Columns": 60000}, "has 60000 x 60000 pixels, too many"),
    ({"BitsAllocated": 32, "BitsStored": 32}, "has 32 bits per pixel"),
    ({"PixelData": RAMP.tobytes()[:-2]}, "is damaged .*less than expected"),
    ({"Rows": 0}, "is damaged"),
])
def test_unusable_files(elements, message):
    with pytest.raises(UserError, match=rf"^invented\.dcm {message}") as caught:
        read(dicom(**elements))
    assert "\n" not in str(caught.value) and "99000001" not in str(caught.value)


def test_a_deflated_file_is_not_inflated():
    with pytest.raises(UserError, match="is a deflated DICOM file, which cannot be read safely"):
        read(dicom(syntax=DeflatedExplicitVRLittleEndian))


def test_a_compressed_file_that_does_not_say_how():
    content = compressed(b"\0\0", JPEG2000)
    dataset_alone = content[content.index(b"\x08\x00\x16\x00UI") :]
    with pytest.raises(UserError, match="is compressed without saying how"):
        read(dataset_alone)


@pytest.mark.parametrize("length", [140, 250, 400, -40, -1])
def test_truncated_files(length):
    with pytest.raises(UserError, match=r"^invented\.dcm is (a DICOM file without|damaged)"):
        read(dicom()[:length])


# Arbitrary content

# Elements that affect how pixels are read, with realistic values.
REALISTIC = {
    "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    "BitsStored": st.sampled_from([8, 10, 12, 16]),
    "PixelRepresentation": st.sampled_from([0, 1]),
    "NumberOfFrames": st.just(1),
    "PixelPaddingValue": st.sampled_from([0, 100, 30000]),
    "PixelPaddingRangeLimit": st.sampled_from([0, 100, 4095]),
    "RescaleSlope": st.sampled_from(["1", "-1", "0.001"]),
    "RescaleIntercept": st.sampled_from(["0", "-1024"]),
    "ModalityLUTSequence": st.sampled_from([[], [4, 0, 16], [4, 100, 16]]),
    "VOILUTSequence": st.sampled_from([[], [4, 0, 16], [4, 100, 12]]),
    "WindowCenter": st.sampled_from(["0", "2000", ["1", "2"], ""]),
    "WindowWidth": st.sampled_from(["1", "4096", ["1", "2"], ""]),
    "VOILUTFunction": st.sampled_from(["LINEAR", "SIGMOID", "LINEAR_EXACT"]),
    "PresentationLUTShape": st.sampled_from(["IDENTITY", "INVERSE"]),
    "ViewPosition": st.sampled_from(["PA", ""]),
    "PatientOrientation": st.sampled_from([["L", "F"], ["R", "F"], ["F", "A"], ""]),
}
INVALID = {
    "PhotometricInterpretation": ["RGB", "PALETTE COLOR", "?", None], "BitsAllocated": [0, 1, 8, 12, 32, None],
    "BitsStored": [0, 1, 40], "PixelRepresentation": [2, None], "SamplesPerPixel": [0, 3, 4, None],
    "Rows": [0, 1, 8, 65535, None], "NumberOfFrames": [0, 2, -1], "RescaleSlope": ["0", "1e300"],
    "RescaleIntercept": ["-1e300"], "ModalityLUTSequence": [[4, 100, 8], [0, 0, 12], [4, 0]],
    "VOILUTSequence": [[4, 100, 8], [0, 0, 12], [4, 0, 1], [4]], "WindowCenter": ["-1e300"],
    "WindowWidth": ["0", "-1", "1e-300"], "VOILUTFunction": ["?"], "ViewPosition": [["PA", "AP"]],
    "PatientOrientation": ["?"],
}  # fmt: skip
invalid_element = st.sampled_from([{keyword: value} for keyword, values in INVALID.items() for value in values])


def result_or_one_line(content, window=False):
    try:
        image = read(content, window)
    except UserError as error:
        assert str(error).startswith("invented.dcm") and "\n" not in str(error)
    else:
        assert image.pixels.dtype == np.uint8 and image.pixels.ndim == 2 and image.pixels.size > 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=REALISTIC), st.just({}) | invalid_element, st.booleans())
def test_any_elements_give_a_picture_or_an_error_of_one_line(realistic, invalid, window):
    elements = realistic | invalid
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        if descriptor := elements.get(keyword):
            elements[keyword] = sequence(LUTDescriptor=descriptor, LUTData=bytes(range(8)))
    try:
        content = dicom(**elements)
    except (AttributeError, TypeError):
        reject()  # pydicom cannot write some of the combinations
    result_or_one_line(content, window)


COMPLETE = [dicom(), dicom(syntax=ImplicitVRLittleEndian)[132:], dicom(syntax=ExplicitVRBigEndian, WindowCenter="5")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(COMPLETE), st.integers(0, 2000), st.binary(max_size=8), st.none() | st.integers(132, 700))
def test_damaged_files_give_a_picture_or_an_error_of_one_line(content, place, garbage, length):
    place %= len(content)
    result_or_one_line((content[:place] + garbage + content[place + len(garbage) :])[:length])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_behind_a_head_give_an_error_of_one_line(garbage):
    for head in (b"\0" * 128 + b"DICM", b"\x08\x00\x05\x00", b"\x02\x00\x10\x00UI"):
        result_or_one_line(head + garbage)


def test_every_syntax_with_garbage_for_pixels():
    garbage = bytes(itertools.islice(itertools.cycle(range(256)), 999))
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000, RLELossless):
        with pytest.raises(UserError, match=r"^invented\.dcm"):
            read(compressed(garbage, syntax))
