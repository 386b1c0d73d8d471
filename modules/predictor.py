"""The Python interface to a trained model: `from modules.predictor import Predictor`."""

from modules.inference.predictor import (
    Box,
    GraphEdits,
    Prediction,
    Predictor,
    ReadStudy,
    Study,
)

__all__ = ["Box", "GraphEdits", "Prediction", "Predictor", "ReadStudy", "Study"]
