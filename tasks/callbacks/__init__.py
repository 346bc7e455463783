"""Callbacks: checkpoints and their moments, schedules of layers, weight averaging, tables, pictures, predictions."""

from dyvision.tasks.callbacks.confusion import ConfusionMatrixWriter
from dyvision.tasks.callbacks.ema import EMA
from dyvision.tasks.callbacks.final_validation import FinalValidation
from dyvision.tasks.callbacks.finish_epoch import FinishEpoch
from dyvision.tasks.callbacks.last_checkpoint import LastCheckpoint
from dyvision.tasks.callbacks.optimizer_in_backward import OptimizerInBackward
from dyvision.tasks.callbacks.pictures import PredictionPictures
from dyvision.tasks.callbacks.predictions import PredictionWriter
from dyvision.tasks.callbacks.progress import TrainingProgress
from dyvision.tasks.callbacks.stopping import StopOnSignal, Stopped
from dyvision.tasks.callbacks.table import ResultsTable
from dyvision.tasks.callbacks.temperature import TemperatureAnnealing

__all__ = (
    "EMA",
    "ConfusionMatrixWriter",
    "FinalValidation",
    "FinishEpoch",
    "LastCheckpoint",
    "OptimizerInBackward",
    "PredictionPictures",
    "PredictionWriter",
    "ResultsTable",
    "StopOnSignal",
    "Stopped",
    "TemperatureAnnealing",
    "TrainingProgress",
)
