"""Image files of Pillow's formats, as bytes."""

import io

from PIL import Image


def encoded(picture, kind="PNG", **options):
    """The bytes of an image file: of a Pillow image, or of an array that Pillow understands."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, kind, **options)
    return file.getvalue()
