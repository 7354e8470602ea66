"""Writes made-up clips of a sensor of 8 x 8 temperatures: python sensor_8x8.py FOLDER

A warm spot moves left, right, or in a circle. Needs only numpy.
"""

import csv
import sys
from pathlib import Path

import numpy as np

folder, random = Path(sys.argv[1]), np.random.default_rng(0)
(folder / "clips").mkdir(parents=True, exist_ok=True)
frame, (row, column) = np.arange(20), np.mgrid[:8, :8]
with (folder / "labels.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["path", "label"])
    for number in range(180):
        label = ("left", "right", "circle")[number % 3]
        angle = random.uniform(0, 6.28) + random.choice([-1, 1]) * random.uniform(0.3, 0.5) * frame
        x, y = 3.5 + 2.5 * np.cos(angle), 3.5 + 2.5 * np.sin(angle)
        if label != "circle":
            x = (random.uniform(0, 8) + random.uniform(0.4, 0.6) * frame) % 10 - 1
            x, y = 7 - x if label == "left" else x, np.full(20, random.uniform(1, 6))
        square = (column - x[:, None, None]) ** 2 + (row - y[:, None, None]) ** 2
        # Degrees Celsius, float32 [T, H, W].
        clip = (22 + 12 * np.exp(-square / 3) + random.normal(0, 0.5, square.shape)).astype(np.float32)
        np.save(folder / "clips" / f"{number:03}.npy", clip)
        table.writerow([f"clips/{number:03}.npy", label])
