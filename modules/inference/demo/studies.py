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
from modules.inference.graph_edits import GraphEdits
from modules.inference.prediction import Prediction
from modules.inference.predictor import Predictor
from modules.inference.studies import ReadStudy

# Long side of the displayed image, in pixels.
DISPLAY_SIDE = 1024


@dataclass
class OpenStudy:
    """A study that a visitor has opened, without its file.

    image     data URL of the displayed image
    unedited  the prediction before any edit
    latest    the latest edits and their prediction: the page may send the same edits several times
    number    unique per server; 0 before the server knows the study
    """

    study: ReadStudy
    image: str
    unedited: Prediction
    latest: tuple[GraphEdits, Prediction] | None = None
    number: int = 0


def open_upload(predictor: Predictor, content: bytes, name: str) -> OpenStudy:
    """Read the bytes of an image file and report on it. Raises UserError if it cannot be read."""
    study = predictor.read(content, name)
    image = _data_url(read_image(content, name, DISPLAY_SIDE, predictor.window).pixels)
    # The model needs the pixels only; a file may have megabytes.
    study = dataclasses.replace(study, source=b"")
    return OpenStudy(study, image, predictor.predict_read([study])[0])


def open_example(predictor: Predictor, number: int) -> OpenStudy:
    """Report on the example with this number, or on a random simulated patient for the number after the last."""
    if number < len(EXAMPLES):
        simulated, name = partial(simulate_example, EXAMPLES[number]), EXAMPLES[number].title
    else:
        simulated, name = partial(simulate_random, np.random.default_rng()), "Simulated chest"
    return open_upload(predictor, simulated(), name)


def predict(predictor: Predictor, study: ReadStudy, edits: GraphEdits) -> Prediction:
    """Report on an open study with an edited graph. Raises UserError for edits of unknown regions or attributes."""
    return predictor.predict_read([study], [edits])[0]


def _data_url(pixels: np.ndarray) -> str:
    """Encode [height, width] uint8 as a JPEG in a data URL, so that no file has to be served."""
    image = Image.fromarray(pixels)
    image.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
