"""Define the options of preprocessing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from pipelines.core.options import positional
from pipelines.data.codecs import CODECS
from pipelines.data.splits import SplitOptions
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling

__all__ = ["PreprocessOptions"]

T = TypeVar("T", Sampling, SplitOptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessOptions:
    """Decodes labelled videos into shards: frames of one size, ready to be mapped into memory.

    VIDEOS and OUT are paths, or URIs such as s3://bucket/shards. With --inspect or --verify they are not given.
    """

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"codec": ("auto", *CODECS)}

    videos: str = positional(default="")
    """folder of videos, of arrays or of folders of pictures, CSV file path,label,group,split, or a list of Kinetics,
    Jester or mmaction2"""
    out: str = positional(default="")
    """directory of shards to make"""
    layout: str = "auto"
    """arrangement of the folder: auto, csv, folders (CLASS/.../clip.avi), class-folders (even if named train or
    test), ucf11, ucf101, hmdb51, kinetics, jester, something-something, mmaction2, hollywood2, youtube-celebrities"""
    width: int | None = None
    """of every frame, pixels; default: 160, for arrays their own"""
    height: int | None = None
    """of every frame, pixels; default: 120, for arrays their own"""
    channels: int | None = None
    """3 for RGB, 1 for grey; default: 3, for arrays their own"""
    fit: str = "stretch"
    """how to fit images of another aspect ratio: stretch, crop (centre) or letterbox (black bars)"""
    max_frames: int | None = None
    """take at most this many frames of a video; without --num-frames, the first ones"""
    num_frames: int | None = None
    """take this many frames of a video, evenly spaced"""
    every: int | None = None
    """take every n-th frame"""
    fps: float | None = None
    """take this many frames per second, by their time stamps"""
    background: str = "none"
    """folder of 3 or more long videos in which nothing happens: clips cut from them at random become a class of their
    own, background, with as many clips as all others together; or none"""
    value_range: str | None = None
    """LOW:HIGH, the values that become 0 and 255 (20:40; below 0 as --value-range=-5:30), of arrays and pictures of
    other types than uint8"""
    picture_fps: float | None = None
    """rate of folders of pictures, frames/s; default: 12 for jester and something-something, else unknown"""
    allow_group_leak: bool = False
    """allow a group (speaker, source video) in several splits; clips are then split one by one"""
    allow_missing_classes: bool = False
    """allow val and test without some classes; train always needs all"""
    folds: int | None = None
    """cross-validation: split into this many equal parts, one of which is the test split; replaces given splits"""
    fold: int = 0
    """the part that is the test split, from 0"""
    leave_group_out: str | None = None
    """this group is the test split (a pattern such as *_01: several); replaces given splits"""
    split_list: int = 1
    """which of the official lists of UCF101 or HMDB51: 1, 2 or 3"""
    seed: int = 0
    """of the splits made here"""
    codec: str = "auto"
    """how to store frames: lossless takes about half of raw, jpeg a tenth, h264 a fiftieth; auto: raw up to 4 GB, then
    lossless if it fits half of the free disk (for a URI: up to 200 GB of raw frames), otherwise h264"""
    shard_mb: float = 64
    """approximate size of a shard, which is the unit of work"""
    time_limit_s: float = 300
    """reject a clip that takes longer to decode; s"""
    resume: bool = False
    """continue in OUT: finish an interrupted job, add clips that are new in VIDEOS"""
    retry_rejected: bool = False
    """with --resume: decode rejected clips again"""
    overwrite: bool = False
    """delete OUT first"""
    dry_run: bool = False
    """estimate frames, bytes and minutes with each codec, from a few clips; write nothing"""
    inspect: str | None = None
    """describe this directory of shards, and draw a few clips of each class"""
    sheet: str | None = None
    """with --inspect: the PNG file to draw; default: contact-sheet.png in the directory"""
    verify: str | None = None
    """compare every shard in this directory with its SHA-256"""

    def __post_init__(self) -> None:
        if not self.inspect and not self.verify:
            for name in ("videos", "out"):
                if not getattr(self, name):
                    raise ValueError(f"{name.upper()} is missing (see --help)")
        if self.inspect and self.verify:
            raise ValueError("inspect and verify exclude each other; give one of them")
        if self.sheet and not self.inspect:
            raise ValueError("sheet needs inspect; give both")
        for name in ("width", "height", "shard_mb", "time_limit_s"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 3 (RGB) or 1 (grey), got {self.channels}")
        if self.split_list not in (1, 2, 3):
            raise ValueError(f"split_list must be 1, 2 or 3, got {self.split_list}")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other; give one of them")
        if self.codec not in self.CHOICES["codec"]:
            raise ValueError(f"codec must be one of {', '.join(self.CHOICES['codec'])}, got {self.codec!r}")
        if self.dry_run and (self.resume or self.inspect or self.verify):
            raise ValueError("dry_run excludes resume, inspect and verify")
        if self.retry_rejected and not self.resume:
            raise ValueError("retry_rejected needs resume; give both")
        _ = self.sampling, self.splits  # for their own checks

    @property
    def frame(self) -> FrameSize:
        """The size of every frame; that of videos where it is not given."""
        return FrameSize(self.width or 160, self.height or 120, self.channels or 3)

    @property
    def sampling(self) -> Sampling:
        """Which frames of a video to take, and how to fit them to the frame size."""
        return self._part(Sampling)

    @property
    def splits(self) -> SplitOptions:
        """How to split the clips."""
        return self._part(SplitOptions)

    def _part(self, options_class: type[T]) -> T:
        return options_class(**{field.name: getattr(self, field.name) for field in fields(options_class)})

    def settings(self) -> dict[str, Any]:
        """The options that determine the result: all but OUT and those of how the command is started."""
        others = ("out", "resume", "retry_rejected", "overwrite", "dry_run", "inspect", "sheet", "verify")
        return {name: value for name, value in asdict(self).items() if name not in others}
