"""A trained task from its file, and what it says of images: three lines of Python."""

from dyvision.inference.load import load
from dyvision.inference.predictor import Predictor
from dyvision.inference.results import Classes, Classification, Detections, Segmentation

__all__ = ("Classes", "Classification", "Detections", "Predictor", "Segmentation", "load")
