"""Predict the clips of a split of shards or of a catalogue of videos.

Legend: B clips, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.core.errors import UserError
from pipelines.core.progress import progress
from pipelines.data.catalog import read_catalog
from pipelines.data.clip import ClipRecord
from pipelines.data.copies import local_copy
from pipelines.data.dataset import ShardDataset
from pipelines.data.plan import PREPROCESS_JSON
from pipelines.data.shards import DATASET_JSON
from pipelines.data.splits import SPLITS, SplitOptions
from pipelines.evaluation.classifier import Classifier
from pipelines.storage.location import Location
from pipelines.video.errors import RejectedError
from pipelines.video.pool import on_all_cores
from pipelines.video.worker import IsolatedDecoder

__all__ = ["Predictions", "is_catalog", "predict_catalog", "predict_shards"]


_TIME_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Predictions:
    """The scores that a model gives clips, with the labels of these."""

    clip_ids: Sequence[str]
    labels: Sequence[tuple[int, ...]]
    """indices of the model's classes"""
    groups: Sequence[str]
    scores: np.ndarray
    """[B, C]"""
    rejected: tuple[tuple[str, str], ...] = ()
    """clip_id and error of each clip that could not be decoded"""

    def subset(self, clip_ids: Sequence[str]) -> "Predictions":
        """The predictions for these clips only."""
        wanted = set(clip_ids)
        rows = [row for row, clip_id in enumerate(self.clip_ids) if clip_id in wanted]
        return Predictions(
            [self.clip_ids[row] for row in rows],
            [self.labels[row] for row in rows],
            [self.groups[row] for row in rows],
            self.scores[rows],
            self.rejected,
        )


def is_catalog(place: Location) -> bool:
    """Whether a location is a CSV file or a folder of videos, rather than shards, finished or not."""
    if not place.exists():
        return False
    if not place.is_dir():
        return True
    if any((place / name).exists() for name in (DATASET_JSON, PREPROCESS_JSON)):
        return False
    return not any(name.endswith(".arrow") for name in place.files())


def predict_shards(model_name: str, model: Classifier, data: ShardDataset, split: str) -> Predictions:
    """Predicts the clips of a split of shards, or all clips.

    Raises:
        UserError: frames, task or classes of the shards differ from the model's, or the split is empty.
    """
    if model.frame != data.frame:
        sizes = [(frame.width, frame.height, frame.channels) for frame in (model.frame, data.frame)]
        raise UserError(
            f"{model_name} takes frames of {sizes[0]} (width, height, channels), {data.place} has {sizes[1]}; "
            "preprocess the videos at the model's size"
        )
    if model.task != data.task:
        raise UserError(
            f"{model_name} was trained on {model.task} data, {data.place} is {data.task}; give {model.task} data"
        )
    if model.classes != data.classes:
        raise UserError(
            f"{model_name} has the classes {', '.join(model.classes)}; {data.place} has {', '.join(data.classes)}"
        )
    clips = data.clips() if split == "all" else data.split(split)
    if not len(clips):
        raise UserError(f"{data.place} has no clips in its split {split!r}")
    scores_BC = np.empty((len(clips), len(model.classes)), np.float32)
    if model.network is not None:
        # Only here is torch needed.
        from pipelines.evaluation.validation import predict_split

        rows, indices, _ = predict_split(model.network, clips)
        scores_BC[indices] = rows
    else:
        for number in progress(range(len(clips)), len(clips), "clips"):
            scores_BC[number] = model.predict(clips[number].frames)
    return Predictions(clips.clip_ids, clips.labels, clips.groups, scores_BC)


def predict_catalog(model_name: str, model: Classifier, place: Location, split: str) -> Predictions:
    """Decodes the videos of a split of a catalogue, or all, by the model's configuration, and predicts them.

    If the catalogue has no splits, clips are split as preprocess does by default.

    Raises:
        UserError: labels that the model does not have, no clips in the split, or none that can be decoded.
    """
    clips = _clips(model_name, model, place, split)
    scores_BC = np.empty((len(clips), len(model.classes)), np.float32)
    rejected: dict[int, str] = {}

    def predict(clip: ClipRecord, decoder: IsolatedDecoder) -> np.ndarray | str:
        with local_copy(clip.path) as file:
            try:
                return model.predict(decoder.decode(file, model.frame, model.sampling).frames)
            except RejectedError as error:
                return str(RejectedError(clip.path, error.reason))

    done = on_all_cores(clips, predict, time_limit_s=_TIME_LIMIT_S)
    for number, found in progress(done, len(clips), "videos"):
        if isinstance(found, str):
            rejected[number] = found
        else:
            scores_BC[number] = found
    kept = [number for number in range(len(clips)) if number not in rejected]
    if not kept:
        raise UserError(
            f"none of the {len(clips):,} clips of {split} in {place} can be decoded ({rejected[0]}); give other videos"
        )
    return Predictions(
        [clips[number].clip_id for number in kept],
        [clips[number].labels for number in kept],
        [clips[number].group for number in kept],
        scores_BC[kept],
        tuple((clips[number].clip_id, error) for number, error in sorted(rejected.items())),
    )


def _clips(model_name: str, model: Classifier, place: Location, split: str) -> list[ClipRecord]:
    if split not in (*SPLITS, "all"):
        raise UserError(f"split must be {', '.join(SPLITS)} or all, got {split!r}")
    # If all clips are predicted, their splits do not matter.
    options = SplitOptions(allow_group_leak=split == "all")
    try:
        catalog = read_catalog(str(place), splits=options, kept_classes=model.classes, for_training=False)
    except UserError as error:
        raise UserError(str(error).replace("--allow-group-leak", "--split all")) from error
    if unknown := catalog.classes[len(model.classes) :]:
        raise UserError(
            f"{model_name} knows the classes {', '.join(model.classes)}; {place} has others: {', '.join(unknown)}"
        )
    if model.task == "single_label" and catalog.task != model.task:
        raise UserError(f"{model_name} predicts one label, but clips of {place} have several; give single_label data")
    clips = [clip for clip in catalog.clips if split in (clip.split, "all")]
    if not clips:
        raise UserError(f"{place} has no clips in its split {split!r}; --split all takes all of them")
    return clips
