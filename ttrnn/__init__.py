"""Tensor-train recurrent networks for video: twins of torch.nn's layers with a few thousand input weights."""

from ttrnn.checkpoint import load, save
from ttrnn.linear import TTLinear
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.recurrent import TTGRU, TTLSTM, TTRNN
from ttrnn.shapes import TTShape

__all__ = ["TTGRU", "TTLSTM", "TTRNN", "ModelConfig", "TTLinear", "TTShape", "VideoClassifier", "load", "save"]
__version__ = "0.1.0"
