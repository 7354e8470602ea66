"""Encode the frames of a clip for a shard, and decode them.

    raw       the frames themselves
    lossless  zstd of the differences between successive frames, modulo 256; the first frame as it is
    jpeg      T + 1 offsets (uint64, little endian) into these bytes, then a JPEG file for each frame
    h264      an MP4 file: H.264 of grey frames, or of RGB as YUV 4:2:0; odd sizes are padded by one row or column

The same frames give the same bytes, whatever the number of workers: each encoder uses one thread. A clip without frames
has no bytes.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import io
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.core.errors import UserError

__all__ = ["CODECS", "H264_CRF", "JPEG_QUALITY", "check_encoder", "decode", "encode"]

JPEG_QUALITY = 90
"""of 100, with chroma at half the resolution"""
H264_CRF = 20
"""constant rate factor of x264: lower is better, 18 to 28 is usual"""
_ZSTD_LEVEL = 1
# The differences of this many bytes of frames are compressed at a time: they stay in the cache of the processor, and
# the memory does not depend on the length of the clip.
_BLOCK_BYTES = 1 << 20
# Few key frames, which are large: a clip is read from its first frame on.
_KEY_FRAME_INTERVAL = 1000
_X264 = {
    "preset": "veryfast",
    "crf": str(H264_CRF),
    "g": str(_KEY_FRAME_INTERVAL),
    # Otherwise x264 estimates with approximations that differ between processors, and from one call to the next.
    "x264-params": "cpu-independent=1",
}
# x264 refuses smaller images.
_MIN_SIDE = 16


class _Codec(NamedTuple):
    encode: Callable[[np.ndarray], Any]
    decode: Callable[[Any, tuple[int, int, int, int]], np.ndarray]
    is_lossy: bool
    share: float
    """Typical size for colour videos, as a share of raw frames; grey or noisy ones take more, up to .95 lossless."""


def check_encoder(codec: str) -> None:
    """Raises UserError if this installation cannot encode with the codec."""
    if codec == "h264":
        import av

        if "libx264" not in av.codecs_available:
            raise UserError("codec h264 needs a PyAV with libx264, as pip install av brings it; or give --codec jpeg")


def encode(codec: str, frames: np.ndarray) -> pa.Buffer:
    """Encodes uint8 frames [T, H, W, C]; raw frames that are contiguous are not copied.

    Raises:
        ValueError: the codec is not among CODECS.
    """
    assert frames.dtype == np.uint8, frames.dtype
    assert frames.ndim == 4, frames.shape
    return pa.py_buffer(_of_name(codec).encode(frames) if frames.size else b"")


def decode(codec: str, data: Any, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Decodes a clip; the result is writable, and for raw a view of `data`.

    Args:
        codec: Its name.
        data: The bytes, or a view of them.
        shape: (T, H, W, C).

    Raises:
        ValueError: the bytes do not hold a clip of this shape; or the codec is not among CODECS.
    """
    method = _of_name(codec).decode
    if not math.prod(shape):
        return np.empty(shape, np.uint8)
    try:
        return method(data, shape)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ValueError(str(error) or "no memory for its frames") from error


def _of_name(codec: str) -> _Codec:
    if codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")
    return CODECS[codec]


def _decode_raw(data: Any, shape: tuple[int, int, int, int]) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(shape)


def _encode_lossless(frames: np.ndarray) -> bytes:
    zstd, step = pa.Codec("zstd", compression_level=_ZSTD_LEVEL), max(1, _BLOCK_BYTES // frames[0].size)
    blocks = []
    for start in range(0, len(frames), step):
        block = frames[start : start + step].copy()
        block[1:] -= frames[start : start + len(block) - 1]
        if start:
            block[0] -= frames[start - 1]
        # Compressed blocks in a row are one zstd stream.
        blocks.append(zstd.compress(block, asbytes=True))
    return b"".join(blocks)


def _decode_lossless(data: Any, shape: tuple[int, int, int, int]) -> np.ndarray:
    frames = np.frombuffer(pa.Codec("zstd").decompress(data, math.prod(shape)), np.uint8).reshape(shape)
    # Faster than numpy's cumsum, which walks through the clip pixel by pixel.
    for before, frame in itertools.pairwise(frames):
        np.add(frame, before, out=frame)
    return frames


def _encode_jpeg(frames: np.ndarray) -> bytes:
    import cv2

    images = []
    for frame in frames:
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if frame.shape[2] == 3 else frame
        images.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    offsets = 8 * (len(images) + 1) + np.cumsum([0, *map(len, images)])
    return b"".join([offsets.astype("<u8").tobytes(), *images])


def _decode_jpeg(data: Any, shape: tuple[int, int, int, int]) -> np.ndarray:
    import cv2

    content, is_rgb = np.frombuffer(data, np.uint8), shape[3] == 3
    offsets = np.frombuffer(data, "<u8", shape[0] + 1).astype(np.int64)
    if offsets[0] != offsets.nbytes or offsets[-1] != len(content) or (np.diff(offsets) <= 0).any():
        raise ValueError("its list of JPEG images does not fit its bytes")
    frames = np.empty(shape, np.uint8)
    for number, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        try:
            image = cv2.imdecode(content[start:stop], cv2.IMREAD_COLOR if is_rgb else cv2.IMREAD_GRAYSCALE)
        except cv2.error:
            image = None
        if image is None or image.shape[:2] != shape[1:3]:
            raise ValueError(f"frame {number} is no JPEG image of {shape[2]} x {shape[1]} pixels")
        if is_rgb:
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=frames[number])
        else:
            frames[number, ..., 0] = image
    return frames


def _padded(height: int, width: int) -> tuple[int, int]:
    """The size of the H.264 image for a frame: even, since chroma has half the resolution, and not too small."""
    return max(_MIN_SIDE, height + height % 2), max(_MIN_SIDE, width + width % 2)


def _yuv_planes(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Each frame as H.264 takes it: grey [H, W], or the planes Y, U and V (BT.601) below each other [3 H / 2, W]."""
    import cv2

    height, width = _padded(*frames.shape[1:3])
    for frame in frames:
        bottom, right = height - frame.shape[0], width - frame.shape[1]
        image = cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        # OpenCV and not FFmpeg, whose result depends on the processor.
        yield cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420) if frame.shape[2] == 3 else image


def _encode_h264(frames: np.ndarray) -> bytes:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    file, pixel_format = io.BytesIO(), "yuv420p" if frames.shape[3] == 3 else "gray"
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options=_X264)
        stream.height, stream.width = _padded(*frames.shape[1:3])
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        # For players; decoding here does not depend on it.
        stream.codec_context.color_range = ColorRange.MPEG if pixel_format == "yuv420p" else ColorRange.JPEG
        stream.codec_context.colorspace = Colorspace.ITU601
        for number, planes in enumerate(_yuv_planes(frames)):
            image = av.VideoFrame.from_ndarray(planes, format=pixel_format)
            image.pts = number
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return file.getvalue()


def _decode_h264(data: Any, shape: tuple[int, int, int, int]) -> np.ndarray:
    import av

    if shape[0] > len(data):
        raise ValueError(f"it has {len(data):,} bytes for {shape[0]:,} frames")
    # FFmpeg adds constant chroma to grey.
    formats = ("yuv420p",) if shape[3] == 3 else ("gray", "yuvj420p")
    frames, number = np.empty(shape, np.uint8), 0
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            context = container.streams.video[0].codec_context if container.streams.video else None
            if context is None:
                raise ValueError("it holds no video")
            context.thread_count = 1
            for image in container.decode(video=0):
                fits = (image.height, image.width) == _padded(*shape[1:3]) and image.format.name in formats
                if number == len(frames) or not fits:
                    raise ValueError(f"it holds other frames than {shape[0]:,} of {shape[2]} x {shape[1]} pixels")
                _write_pixels(image, frames[number])
                number += 1
    except av.FFmpegError as error:
        raise ValueError(f"FFmpeg: {error.strerror}") from error
    if number < len(frames):
        raise ValueError(f"it holds {number:,} frames instead of {len(frames):,}")
    return frames


def _write_pixels(image: Any, frame: np.ndarray) -> None:
    """Writes a decoded image to a frame [H, W, C], without the padding."""
    import cv2

    height, width, channels = frame.shape
    if channels == 1:
        plane = image.planes[0]
        frame[..., 0] = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width]
    elif (height, width) == (image.height, image.width):
        cv2.cvtColor(image.to_ndarray(), cv2.COLOR_YUV2RGB_I420, dst=frame)
    else:
        frame[:] = cv2.cvtColor(image.to_ndarray(), cv2.COLOR_YUV2RGB_I420)[:height, :width]


CODECS = {
    "raw": _Codec(np.ascontiguousarray, _decode_raw, is_lossy=False, share=1.0),
    "lossless": _Codec(_encode_lossless, _decode_lossless, is_lossy=False, share=0.6),
    "jpeg": _Codec(_encode_jpeg, _decode_jpeg, is_lossy=True, share=0.1),
    "h264": _Codec(_encode_h264, _decode_h264, is_lossy=True, share=0.03),
}
