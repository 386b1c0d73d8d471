"""A trained model as one object: images in, reports with their scene graphs out.

    predictor = Predictor("results/demo")
    prediction, = predictor.predict(["chest.png"])

Create it once and reuse it: loading a checkpoint takes longer than generating a report. For research only; reports are
not fit for patient care.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from data.errors import UserError, wrong_value
from data.images.network_input import normalise_views
from models.outputs import GraphOverrides, GraphSource, ModelInputs
from modules.builders import box_source_of_new_images, load_model
from modules.checkpoint import load_checkpoint
from modules.evaluation.evaluator import check_finite, inference
from modules.inference.given_context import context_inputs, read_context
from modules.inference.graph_edits import GraphEdits, graph_overrides
from modules.inference.prediction import Prediction
from modules.inference.prediction_builder import build_predictions
from modules.inference.studies import ReadStudy, Study, StudyLike, read_study
from modules.runtime import autocast, select_device
from modules.settings.limits import check_limits


class Predictor:
    """Generates reports with the model of a checkpoint, without <unk>: they are for people.

    vocabularies, config   of the checkpoint
    """

    def __init__(
        self, checkpoint: str | Path, device: str = "auto", batch_size: int | None = None, beam_size: int | None = None,
        window: bool = False,
    ):
        """Load the model.

        checkpoint             a checkpoint folder, a run folder (its best), or the output of `modules.export`
        device                 auto (a GPU if there is one), cpu or cuda
        batch_size, beam_size  studies per batch, beams per study; default to those of the checkpoint's `eval` settings
        window                 apply the window of a DICOM file instead of the preparation of data sets

        Raises UserError if the checkpoint or the device cannot be used, and for numbers below 1.
        """
        loaded = load_checkpoint(checkpoint)
        loaded.check_writes_reports()
        self.config, self.vocabularies = loaded.config, loaded.vocabularies
        self.batch_size = self.config.eval.batch_size if batch_size is None else batch_size
        self.beam_size = self.config.eval.beam_size if beam_size is None else beam_size
        for name, value in (("batch_size", self.batch_size), ("beam_size", self.beam_size)):
            if value < 1:
                raise wrong_value(name, value, "must be at least 1")
            check_limits({f"eval.{name}": value})
        self.window = window
        self.device = select_device(device)
        self.model = load_model(loaded, self.config).to(self.device)
        self._box_source = box_source_of_new_images(self.model, self.config)

    def predict(
        self, images: Sequence[StudyLike], edits: Sequence[GraphEdits | None] | None = None
    ) -> list[Prediction]:
        """The predictions for `images`, in order.

        edits: one per study. Raises UserError naming the image that cannot be read, and for edits of an unknown region
        or attribute.
        """
        edits = [None] * len(images) if edits is None else list(edits)
        predictions = []
        for start in range(0, len(images), self.batch_size):
            stop = start + self.batch_size
            studies = [self.read(image, f"image {start + i + 1}") for i, image in enumerate(images[start:stop])]
            predictions += self.predict_read(studies, edits[start:stop])
        return predictions

    def read(self, image: StudyLike, name: str | None = None) -> ReadStudy:
        """Read `image` for `predict_read`. name: of an image that has neither a name nor a path.

        Raises UserError naming the image that cannot be read, and for a context that the model does not read.
        """
        given = image.context if isinstance(image, Study) else None
        context, warnings = read_context(given, self.config, self.vocabularies, self.window)
        study = read_study(image, name or "the image", self.config.data, self.window)
        return replace(study, context=context, prior_warnings=warnings)

    def predict_read(
        self, studies: Sequence[ReadStudy], edits: Sequence[GraphEdits | None] | None = None
    ) -> list[Prediction]:
        """The predictions for `studies`, as a single batch. Raises UserError as `predict` does for edits."""
        if not studies:
            return []
        edits = [None] * len(studies) if edits is None else list(edits)
        view_counts = torch.tensor([len(study.pixels) for study in studies])
        views = pad_sequence([study.pixels for study in studies], batch_first=True).to(self.device)
        view_mask = (torch.arange(views.shape[1]) < view_counts[:, None]).to(self.device)
        inputs = ModelInputs(
            images=normalise_views(views, view_mask),
            view_mask=view_mask,
            frontal=torch.tensor([study.frontal for study in studies], device=self.device),
            overrides=self._overrides(studies, edits),
            context=context_inputs(
                [study.context for study in studies], self.vocabularies.tokenizer.pad_id, self.device
            ),
        )
        with inference(self.model), autocast(self.config.train.precision, self.device):
            generation = self.model.generate(
                inputs, GraphSource.PREDICTED, self._box_source, self.beam_size, self.config.data.max_tokens,
                with_region_attention=True, excluded_ids=(self.vocabularies.tokenizer.unk_id,),
            )
        check_finite([study.name for study in studies], generation.scores, *generation.encoded.predictions)
        return build_predictions(generation, studies, edits, self.vocabularies, self._box_source)

    def _overrides(
        self, studies: Sequence[ReadStudy], edits: Sequence[GraphEdits | None]
    ) -> GraphOverrides | None:
        """The edits as the model takes them; None if there are none."""
        if not any(edits):
            return None
        if self.model.graph is None:
            raise UserError("This model has no scene graph to edit: it was trained with model.graph_in=none")
        overrides = graph_overrides(edits, [study.image_size for study in studies], self.vocabularies)
        return GraphOverrides(*(tensor.to(self.device) for tensor in vars(overrides).values()))
