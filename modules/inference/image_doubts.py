"""Reasons to doubt that an image is a chest X-ray as the model knows them."""

from data.images.network_image import NetworkImage
from data.records import is_frontal_view

# A warning is given if an image agrees less than this with an average chest (`data.images.lungs.chest_agreement`).
# Chosen on real and simulated X-rays (`python -m benchmarks frontal_check`): it is given for 2 % of the real frontal
# X-rays, but not for 10 % of the real lateral ones and 25 % of the simulated ones.
MIN_CHEST_AGREEMENT = 0.6
NOT_FRONTAL = "the image does not look like a frontal chest radiograph"


def frontal_doubts(image: NetworkImage) -> list[str]:
    """Return why an image may not be a frontal view, at most one line."""
    if not is_frontal_view(image.view):
        return [f"the file says that this is a {image.view} view: regions need a frontal view"]
    return [NOT_FRONTAL] if image.agreement < MIN_CHEST_AGREEMENT else []


def file_doubts(image: NetworkImage) -> list[str]:
    """Return what the file of an image says against it, one line each."""
    return [f"the file says: {warning}" for warning in image.warnings]
