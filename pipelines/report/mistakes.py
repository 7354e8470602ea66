"""Find the clips of the test split that a model gets wrong, for report.html.

Legend: B clips, C classes.
"""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.data.dataset import ShardDataset, Split
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.metrics import confusion
from pipelines.evaluation.predictions import predict_shards

__all__ = ["find_mistakes"]

_MOST_STILLS = 12
_MOST_CLASSES = 40
"""A larger matrix is not read by anybody."""
_LARGEST_SIDE, _JPEG_QUALITY = 160, 80


def find_mistakes(model_dir: Path, data: ShardDataset) -> dict[str, Any] | None:
    """The confusion matrix on the test split, and the wrong answers that the model is surest of.

    Returns:
        confusion (rows: the true class; None for more than 40 classes), num_clips, num_wrong, and clips: clip_id,
        label, predicted, score (0 to 1) and image (the middle frame, a JPEG in base64) of up to 12. None if clips have
        several labels.
    """
    if data.task != "single_label":
        return None
    model, split = open_classifier(model_dir), data.split("test")
    predictions = predict_shards(str(model_dir), model, data, "test")
    scores_BC, labels_B = predictions.scores, np.array([label for (label,) in predictions.labels])
    predicted_B = scores_BC.argmax(axis=1)
    wrong = np.flatnonzero(predicted_B != labels_B)
    surest = wrong[np.argsort(-scores_BC[wrong].max(axis=1), kind="stable")][:_MOST_STILLS]
    counts_CC = confusion(scores_BC, predictions.labels).tolist() if len(data.classes) <= _MOST_CLASSES else None
    return {
        "confusion": counts_CC,
        "num_clips": len(split),
        "num_wrong": len(wrong),
        "clips": [
            {
                "clip_id": predictions.clip_ids[index],
                "label": data.classes[labels_B[index]],
                "predicted": data.classes[predicted_B[index]],
                "score": float(scores_BC[index].max()),
                "image": _still(split, index),
            }
            for index in surest.tolist()
        ],
    }


def _still(split: Split, index: int) -> str:
    """The middle frame of a clip, at most 160 pixels wide and high."""
    frames = split[index].frames
    if not len(frames):
        return ""
    frame = frames[len(frames) // 2]
    image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if frame.shape[2] == 3 else frame
    factor = _LARGEST_SIDE / max(image.shape[:2])
    if factor < 1:
        size = [max(1, round(factor * side)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return base64.b64encode(content.tobytes()).decode()
