"""The indication and the previous study that a caller gives for a study, read as the network sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.context.fields import MOST_INDICATION_TOKENS, StudyContext, collate_context, encode_text
from data.context.settings import INDICATION, PRIOR
from data.errors import UserError, readable
from data.images.network_image import ImageLike, NetworkImage, read_network_image
from data.images.network_input import normalise_views
from data.records import is_frontal_view
from data.text.cleaning import clean
from data.vocabulary import Vocabularies
from models.outputs import ContextInputs
from modules.config import Config
from modules.inference.image_doubts import file_doubts, frontal_doubts

_PRIOR_NAME = "the previous image"


@dataclass(frozen=True)
class GivenContext:
    """What is known before the image: None for what is not.

    indication     why the study was requested
    prior          the frontal image of the patient's previous study
    prior_report   the report of that study
    """

    indication: str | None = None
    prior: ImageLike | None = None
    prior_report: str | None = None


def check_is_read(given: GivenContext, config: Config) -> None:
    """Raise UserError for a part of the context that the model does not read, naming the setting, and for no text."""
    model = config.model
    for name, value, is_read in (
        ("an indication", given.indication, INDICATION in model.context),
        ("a previous image", given.prior, PRIOR in model.context),
        ("a previous report", given.prior_report, model.prior_report),
    ):
        if value is not None and not is_read:
            setting = "model.prior_report=true" if name == "a previous report" else "model.context"
            raise UserError(f"This model does not read {name}: leave it out, or use a model trained with {setting}")
        if name != "a previous image" and not isinstance(value, str | None):
            raise UserError(f"{name} is given as a {type(value).__name__}: give a text")


def read_context(
    given: GivenContext | None, config: Config, vocabularies: Vocabularies, window: bool, prior_name: str = _PRIOR_NAME
) -> tuple[StudyContext | None, tuple[str, ...]]:
    """Read the context of one study, None for a model without `model.context`, and the warnings of the previous image.

    window      apply the window of a DICOM file instead of the preparation of data sets
    prior_name  of a previous image without a path, for errors

    Raises UserError naming a previous image that cannot be read or is not a frontal view by its file, and as
    `check_is_read` does.
    """
    given = given or GivenContext()
    check_is_read(given, config)
    if not config.model.context:
        return None, ()
    side = config.data.image_size

    def encode(text: str | None, most: int) -> torch.Tensor:
        words = "" if text is None else clean(text, config.data.cleaning)
        return encode_text(words, vocabularies.tokenizer, min(most, config.data.max_tokens))

    image, warnings = torch.zeros(side, side, dtype=torch.uint8), ()
    if given.prior is not None:
        prior = _read_prior(given.prior, prior_name, side, window)
        image = prior.pixels
        warnings = tuple(f"{_PRIOR_NAME}: {doubt}" for doubt in frontal_doubts(prior) + file_doubts(prior))
    return StudyContext(
        has_prior=torch.tensor(given.prior is not None), prior_image=image,
        indication=encode(given.indication, MOST_INDICATION_TOKENS),
        prior_report=encode(given.prior_report, config.data.max_tokens),
    ), warnings


def _read_prior(prior: ImageLike, name: str, side: int, window: bool) -> NetworkImage:
    title = readable(str(prior)) if isinstance(prior, (str, Path)) else name
    image = read_network_image(prior, title, side, window)
    if not is_frontal_view(image.view):
        raise UserError(f"{title} is a {image.view} view: give the frontal image of the previous study")
    return image


def context_inputs(
    contexts: Sequence[StudyContext | None], pad_id: int, device: torch.device
) -> ContextInputs | None:
    """Return the contexts of the studies of a batch as the model takes them; None if it reads none."""
    batch = collate_context(list(contexts), pad_id)
    if batch is None:
        return None
    has_prior = batch.has_prior.to(device)
    images = normalise_views(batch.prior_image.unsqueeze(1).to(device), has_prior.unsqueeze(1))[:, 0]
    return ContextInputs(
        has_prior=has_prior, prior_image=images.masked_fill(~has_prior[:, None, None, None], 0),
        indication=batch.indication.to(device), indication_mask=batch.indication_mask.to(device),
        prior_report=batch.prior_report.to(device), prior_report_mask=batch.prior_report_mask.to(device),
    )
