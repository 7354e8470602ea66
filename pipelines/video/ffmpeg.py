"""Read the images of a video with FFmpeg (PyAV), upright, in the colours and at the times that a player shows.

Legend: H W image height and width in pixels.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import IO, Any

import av
import av.error
import av.filter
import av.logging
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from pipelines.video.errors import RejectedError
from pipelines.video.promised_size import promised_size
from pipelines.video.reader import DEFAULT_FPS, Image

__all__ = ["DECODER", "VideoReader"]

DECODER = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
"""Pixels may differ a little between versions."""
# In every container, a frame that repeats the last one takes at least this much: a header that needs less is wrong.
_MIN_FRAME_BYTES = 8
# These name other files, which would be opened.
_LISTS = {"concat", "dash", "hls", "imf"}
# These may hold one image or several.
_PICTURES = {"apng", "gif", "webp", "webp_anim"}
# Matroska's clock without a rate has a tick of 1 ms. No camera of a data set is faster, and no true rate is as high.
_MAX_RATE = 1000
# Of these, every other row and column has chroma, which is repeated: the fast way gives what the slow one gives.
_COMMON = {"yuv420p", "yuvj420p"}
_SDR = {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}
_HDR = {ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67}
# FFmpeg's own words on damaged files are kept here, as evidence, instead of being reported on the terminal.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
_complaints = av.logging.Capture(local=False).__enter__()
# The tables for HDR take seconds; they are made once for many clips.
_reformatter = VideoReformatter()


class VideoReader:
    """A video, as a `Reader`.

    Args:
        file: Its content decides the format, not its name. It stays open while the video is read.

    Raises:
        RejectedError: unreadable, no_decoder.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._path = file.name
        num_bytes = os.fstat(file.fileno()).st_size
        # A name that hides the real one and its extension.
        device = f"/dev/fd/{file.fileno()}"
        self._container = _open(device, file.name)
        self._stream = _video_stream(self._container, file.name)
        entries = self._stream.index_entries
        indexed = max((entry.pos + entry.size for entry in entries), default=0)
        self._share = num_bytes / max(indexed, promised_size(file), num_bytes, 1)
        self.is_cut = self._share < 1
        stored = _rate(self._stream.average_rate) or _rate(self._stream.codec_context.framerate)
        self.fps = stored or _mean_rate(_stamps(device, file.name))
        self.num_announced = _announced(self._container, self._stream, self.fps)
        if not 0 < self.num_announced <= num_bytes / _MIN_FRAME_BYTES:
            self.num_announced = 0
        self.pixel_aspect = float(self._stream.sample_aspect_ratio or 1) or 1.0
        if self._container.format.name in _PICTURES and len(_stamps(device, file.name)) < 2:
            raise RejectedError(file.name, "unreadable")
        context = self._stream.codec_context
        self.codec, self.width, self.height = context.name, context.width, context.height
        # One thread: callers with many clips decode as many at a time as there are cores.
        context.thread_count = 1
        self._graph: tuple[tuple[int, int, str], av.filter.Graph] | None = None
        self._turn: tuple[bool, bool, bool] | None = None

    def __iter__(self) -> Iterator[Image]:
        step, start, now, number = 1 / (self.fps or DEFAULT_FPS), None, 0.0, 0
        for frame in self._frames():
            number += 1
            stamp: float | None = frame.time
            if stamp is not None:
                now = stamp if start is None else max(stamp, now)
            elif start is not None:
                # Some frames have no time stamp, for example the last one of an MPEG-1 file.
                now += step
            start = now if start is None else start
            yield Image(now - start, functools.partial(self._pixels, frame))
        # A WMV file that was cut off has lost its index.
        self.num_announced = self.num_announced or round(number / self._share)

    def _frames(self) -> Iterator[VideoFrame]:
        """All frames that decode; damage is skipped and noted."""
        for packet in self._packets():
            frames: list[VideoFrame] = []
            try:
                frames = self._stream.codec_context.decode(packet)
            except MemoryError:
                raise
            except av.error.FFmpegError:
                self.is_cut = True
            # Packets of a transport stream with a gap are marked.
            if _complaints or (packet is not None and packet.is_corrupt):
                self.is_cut = True
                _complaints.clear()
            yield from frames

    def _packets(self) -> Iterator[av.Packet | None]:
        """The packets of the stream; at the end an empty one, or None, that makes the decoder give its last frames."""
        # Those of another file.
        _complaints.clear()
        try:
            yield from self._container.demux(self._stream)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self.is_cut = True
            yield None

    def _pixels(self, frame: VideoFrame) -> np.ndarray:
        if self._turn is None:
            self._turn = _turn(frame)
            if self._turn[0]:
                self.pixel_aspect = 1 / self.pixel_aspect
        image = self._as_rgb(frame)
        plane = image.planes[0]
        # Its rows may be padded.
        strides = plane.line_size, 3, 1
        pixels = np.ndarray((image.height, image.width, 3), np.uint8, memoryview(plane), strides=strides)
        return _turned(pixels, *self._turn)

    def _as_rgb(self, frame: VideoFrame) -> VideoFrame:
        if frame.color_trc in _HDR:
            return _reformatter.reformat(frame, format="rgb24", threads=1, **_SDR)
        is_even = not (frame.width | frame.height) & 1
        if frame.format.name in _COMMON and is_even and not frame.interlaced_frame:
            return _reformatter.reformat(frame, format="rgb24", threads=1)
        size = frame.width, frame.height, frame.format.name
        if self._graph is None or self._graph[0] != size:
            self._graph = size, _conversion(frame)
        self._graph[1].push(frame)
        image = self._graph[1].pull()
        assert isinstance(image, VideoFrame)
        return image


def _conversion(frame: VideoFrame) -> av.filter.Graph:
    """Converts frames to RGB as players do: fields stay together, and samples of chroma lie where the format says."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    filters = [
        graph.add("setfield", "prog"),
        graph.add("scale", "flags=bicubic"),
        graph.add("format", "pix_fmts=rgb24"),
    ]
    graph.link_nodes(source, *filters, graph.add("buffersink")).configure()
    return graph


def _open(device: str, path: str) -> av.container.InputContainer:
    try:
        container = av.open(device, metadata_errors="ignore", options={"protocol_whitelist": "file"})
    # A header with a huge number takes all memory.
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        raise RejectedError(path, "unreadable") from error
    kind = container.format.name
    # FFmpeg opens still images too, by demuxers such as png_pipe.
    if kind.endswith("_pipe") or kind in ("image2", *_LISTS):
        container.close()
        raise RejectedError(path, "unreadable")
    return container


def _video_stream(container: av.container.InputContainer, path: str) -> VideoStream:
    """The best video stream that is no cover of an album."""
    moving = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    if not moving:
        raise RejectedError(path, "unreadable")
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    assert isinstance(stream, VideoStream)
    if stream.codec_context is None:
        raise RejectedError(path, "no_decoder")
    return stream


def _rate(rate: Fraction | None) -> float:
    return float(rate) if rate and 0 < rate < _MAX_RATE else 0.0


def _stamps(device: str, path: str) -> list[float]:
    """The times of the packets of a video, in s, without decoding."""
    stamps = []
    with _open(device, path) as container, contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(_video_stream(container, path)):
            if packet.pts is not None and packet.time_base is not None:
                stamps.append(float(packet.pts * packet.time_base))
    return stamps


def _mean_rate(stamps: Sequence[float]) -> float:
    """The rate of a file that does not give it; 0 if it has no times."""
    span = max(stamps, default=0.0) - min(stamps, default=0.0)
    return (len(stamps) - 1) / span if span > 0 else 0.0


def _announced(container: av.container.InputContainer, stream: VideoStream, fps: float) -> int:
    if stream.frames:
        return stream.frames
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base) * fps)
    return round((container.duration or 0) / av.time_base * fps)


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """The display matrix of a frame: whether to swap rows and columns, then to flip up and down, left and right."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    # A point (x, y) is shown at (a x + c y, b x + d y).
    (a, b), (c, d) = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(b) > abs(a):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _turned(image: np.ndarray, swap: bool, flip_rows: bool, flip_columns: bool) -> np.ndarray:
    if swap:
        image = cv2.transpose(image)
    if flip_rows or flip_columns:
        image = cv2.flip(image, -1 if flip_rows and flip_columns else int(flip_columns))
    return image
