"""Write small shards for tests: the class of a clip is the column that gets brighter, in noise."""

from pathlib import Path

import numpy as np

from pipelines.data.shards import Clip, write_dataset_json, write_shard
from pipelines.video.frame import FrameSize

FRAME = FrameSize(width=8, height=4, channels=1)


def make_shards(
    path,
    *,
    num_clips=36,
    num_classes=3,
    multi_label=False,
    seed=0,
    num_frames=6,
    frame=FRAME,
    num_groups=0,
    codec="raw",
) -> Path:
    """Writes train (num_clips), val and test (a third each, at least one clip per class); returns the directory.

    With num_groups, each class has this many groups, which are in all splits.
    """
    rng, path = np.random.default_rng(seed), Path(path)
    path.mkdir(parents=True)
    splits, pixels = {}, []
    for name, count in (
        ("train", num_clips),
        ("val", max(num_classes, num_clips // 3)),
        ("test", max(num_classes, num_clips // 3)),
    ):
        clips = []
        for index in range(count):
            labels = (
                (index % num_classes, (index + 1) % num_classes)
                if multi_label and index % 2
                else (index % num_classes,)
            )
            length = int(rng.integers(num_frames // 2, num_frames + 1))
            frames = rng.integers(0, 100, (length, *frame.shape), dtype=np.uint8)
            for label in labels:
                frames[:, :, 2 * label : 2 * label + 2] += np.linspace(0, 120, length).astype(np.uint8)[
                    :, None, None, None
                ]
            group = f"{labels[0]}/{index // num_classes % num_groups}" if num_groups else ""
            clips.append(Clip(f"{name}/{index}", tuple(sorted(labels)), group, 10.0, frames))
            pixels.append(frames.reshape(-1, frame.channels))
        splits[name] = [write_shard(path / f"{name}-00000.arrow", clips, codec)]
    stacked = np.concatenate(pixels)
    write_dataset_json(
        path,
        classes=[f"class {i}" for i in range(num_classes)],
        task="multi_label" if multi_label else "single_label",
        frame=frame,
        sampling={},
        mean=stacked.mean(axis=0).tolist(),
        std=stacked.std(axis=0).tolist(),
        splits=splits,
        options={},
        codec=codec,
    )
    return path
