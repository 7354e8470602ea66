"""Write folders of pictures for tests."""

from pathlib import Path

import cv2
import numpy as np


def write_pictures(folder: Path, frames: np.ndarray, name: str = "{:05}.png", start: int = 1) -> Path:
    """Writes frames, [T, H, W, 3] (RGB) or [T, H, W] (grey), as numbered pictures; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start):
        image = frame if frame.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR)
        file = folder / name.format(number)
        # The name may have an extension that OpenCV does not know.
        file.write_bytes(cv2.imencode(file.suffix, image)[1].tobytes())
    return folder
