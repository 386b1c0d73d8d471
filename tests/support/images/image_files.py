"""Image files in Pillow's formats, as bytes."""

import io

from PIL import Image


def encoded(pixels, kind="PNG", **options):
    """Encode a Pillow image, or an array, as a file."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()
