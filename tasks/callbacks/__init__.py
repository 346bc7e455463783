"""Callbacks: schedules of layers, weight averaging, tables of results, predictions as files."""

from dyvision.tasks.callbacks.confusion import ConfusionMatrixWriter
from dyvision.tasks.callbacks.ema import EMA
from dyvision.tasks.callbacks.pictures import PredictionPictures
from dyvision.tasks.callbacks.predictions import PredictionWriter
from dyvision.tasks.callbacks.progress import TrainingProgress
from dyvision.tasks.callbacks.table import ResultsTable
from dyvision.tasks.callbacks.temperature import TemperatureAnnealing

__all__ = (
    "EMA",
    "ConfusionMatrixWriter",
    "PredictionPictures",
    "PredictionWriter",
    "ResultsTable",
    "TemperatureAnnealing",
    "TrainingProgress",
)
