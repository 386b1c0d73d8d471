"""Opens and predicts the studies of visitors. These functions run in the process that holds the model."""

import base64
import dataclasses
import io
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from data.images.network_image import read_image
from modules.inference.demo.examples import EXAMPLES, simulate_example, simulate_random
from modules.inference.given_context import GivenContext, read_context
from modules.inference.graph_edits import GraphEdits
from modules.inference.prediction import Prediction
from modules.inference.predictor import Predictor
from modules.inference.studies import ReadStudy

# Long side of the displayed image, and of the previous image beside it, in pixels.
DISPLAY_SIDE, PRIOR_DISPLAY_SIDE = 1024, 724


@dataclass(frozen=True)
class ShownContext:
    """What of a study's context the model is shown.

    prior        the previous image, if there is one
    indication   None: none
    """

    prior: bool = False
    indication: str | None = None


@dataclass
class OpenStudy:
    """A study that a visitor has opened, without its files.

    image     data URL of the displayed image; prior_image: of the previous one, None without one
    unedited  the prediction before any edit, with the context `shown`
    latest    the latest edits, the context that was shown, and their prediction: the page may send them several times
    reads     the parts of the context that the model reads
    number    unique per server; 0 before the server knows the study
    """

    study: ReadStudy
    image: str
    unedited: Prediction
    latest: tuple[GraphEdits, ShownContext, Prediction] | None = None
    reads: tuple[str, ...] = ()
    prior_image: str | None = None
    shown: ShownContext = ShownContext()
    number: int = 0


def context_read(predictor: Predictor) -> tuple[str, ...]:
    """Return the parts of the context that the model reads, of `data.context.settings.CONTEXTS`."""
    return tuple(predictor.config.model.context)


def open_upload(predictor: Predictor, content: bytes, name: str) -> OpenStudy:
    """Read the bytes of an image file and report on it. Raises UserError if it cannot be read."""
    study = predictor.read(content, name)
    image = _data_url(read_image(content, name, DISPLAY_SIDE, predictor.window).pixels)
    # The model needs the pixels only; a file may have megabytes.
    study = dataclasses.replace(study, source=b"")
    reads = context_read(predictor)
    return OpenStudy(study, image, predictor.predict_read([study])[0], reads=reads)


def open_prior(predictor: Predictor, current: OpenStudy, shown: ShownContext, content: bytes, name: str) -> OpenStudy:
    """Read the bytes of the previous image of the `current` study, and report on both. Raises UserError if it cannot
    be read or is not a frontal view, or if the model reads no previous image.

    shown   the context so far; its indication is kept
    """
    given = GivenContext(prior=content)
    context, warnings = read_context(given, predictor.config, predictor.vocabularies, predictor.window, name)
    study = dataclasses.replace(current.study, context=context, prior_warnings=warnings)
    image = _data_url(read_image(content, name, PRIOR_DISPLAY_SIDE, predictor.window).pixels, PRIOR_DISPLAY_SIDE)
    shown = dataclasses.replace(shown, prior=True)
    return dataclasses.replace(
        current, study=study, prior_image=image, shown=shown, latest=None,
        unedited=predict(predictor, study, None, shown),
    )


def open_example(predictor: Predictor, number: int) -> OpenStudy:
    """Report on the example with this number, or on a random simulated patient for the number after the last."""
    if number < len(EXAMPLES):
        simulated, name = partial(simulate_example, EXAMPLES[number]), EXAMPLES[number].title
    else:
        simulated, name = partial(simulate_random, np.random.default_rng()), "Simulated chest"
    return open_upload(predictor, simulated(), name)


def predict(
    predictor: Predictor, study: ReadStudy, edits: GraphEdits | None, shown: ShownContext = ShownContext()
) -> Prediction:
    """Report on an open study with an edited graph and the context that is `shown`.

    Raises UserError for edits of unknown regions or attributes, and for an indication that the model does not read.
    """
    given = GivenContext(indication=shown.indication)
    context, _ = read_context(given, predictor.config, predictor.vocabularies, predictor.window)
    if context is not None and shown.prior:
        prior = study.context
        context = dataclasses.replace(context, has_prior=prior.has_prior, prior_image=prior.prior_image)
    return predictor.predict_read([dataclasses.replace(study, context=context)], [edits])[0]


def _data_url(pixels: np.ndarray, side: int = DISPLAY_SIDE) -> str:
    """Encode [height, width] uint8 as a JPEG in a data URL, so that no file has to be served."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
