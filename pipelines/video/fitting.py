"""Fit images to the frame size.

Legend: H W height and width in pixels, C channels (3: RGB, 1: grey).
"""

import cv2
import numpy as np

__all__ = ["resize"]


def resize(image: np.ndarray, fit: str, frame: np.ndarray, pixel_aspect: float = 1.0) -> None:
    """Fills a frame [H, W, C] with an image of any size, uint8 [H, W, 3] (RGB) or [H, W] (grey), averaging over area.

    Args:
        image: The image.
        fit: One of sampling.FITS.
        frame: The result.
        pixel_aspect: Width of a pixel of the image in heights of a pixel; those of the frame are square.
    """
    if image.ndim == 2 and frame.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    turns_grey = image.ndim == 3 and frame.shape[2] == 1
    small = part = np.empty((*frame.shape[:2], 3), np.uint8) if turns_grey else frame
    (height, width), (frame_height, frame_width) = image.shape[:2], frame.shape[:2]
    if fit == "crop":
        image = _centre(image, frame_width / (frame_height * pixel_aspect))
    elif fit == "letterbox":
        small[...] = 0
        part = _centre(small, width * pixel_aspect / height)
    cv2.resize(image, part.shape[1::-1], part, interpolation=cv2.INTER_AREA)
    if turns_grey:
        cv2.cvtColor(small, cv2.COLOR_RGB2GRAY, frame)


def _centre(image: np.ndarray, aspect: float) -> np.ndarray:
    """The largest part around the middle of `image` with this ratio of width to height."""
    height, width = image.shape[:2]
    part_height = max(1, min(height, round(width / aspect)))
    part_width = max(1, min(width, round(height * aspect)))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return image[top : top + part_height, left : left + part_width]
