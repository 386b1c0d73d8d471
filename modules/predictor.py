"""The Python interface to a trained model: `from modules.predictor import Predictor`."""

from modules.inference.given_context import GivenContext
from modules.inference.graph_edits import Box, GraphEdits
from modules.inference.prediction import PredictedRegion, PredictedSentence, Prediction
from modules.inference.predictor import Predictor
from modules.inference.studies import ReadStudy, Study

__all__ = [
    "Box", "GivenContext", "GraphEdits", "PredictedRegion", "PredictedSentence", "Prediction", "Predictor", "ReadStudy",
    "Study",
]
