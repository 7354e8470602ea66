"""Codecs: lossless ones give the same frames, lossy ones close ones, and damaged bytes are refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipelines.data import codecs
from pipelines.data.codecs import CODECS, decode, encode

ENCODED = [name for name in CODECS if name != "raw"]
LOSSY = [name for name in CODECS if CODECS[name].is_lossy]
# The largest mean difference of `moving` frames, of 255; the noise alone has 1.6.
CLOSE = {"jpeg": 2, "h264": 3}
ODD = [(1, 1, 1, 1), (1, 1, 1, 3), (2, 8, 8, 1), (3, 5, 7, 3), (4, 17, 33, 3), (5, 31, 16, 1), (1, 120, 161, 3)]


def moving(shape: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """uint8 frames of a pattern that moves, with a little noise, as cameras give it."""
    num_frames, height, width, channels = shape
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:height, :width]
    t = np.arange(num_frames)[:, None, None]
    pattern = 128 + 60 * np.sin(x / 9 + t / 5) + 40 * np.cos(y / 7 - t / 8)
    frames = pattern[..., None] * np.linspace(0.8, 1, channels) + rng.normal(0, 2, shape)
    return np.clip(frames, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_lossless_codecs_give_the_same_frames_for_any_shape_and_content(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for block_bytes in (1, 1000, codecs._BLOCK_BYTES):
        monkeypatch.setattr(codecs, "_BLOCK_BYTES", block_bytes)
        for _ in range(60):
            shape = tuple(int(n) for n in rng.integers([0, 1, 1, 1], [30, 40, 40, 4]))
            low, high = sorted(rng.integers(0, 257, 2))
            frames = rng.integers(low, high + 1, shape, np.int64).astype(np.uint8)
            decoded = decode(codec, encode(codec, frames), shape)
            np.testing.assert_array_equal(decoded, frames)
            assert decoded.dtype == np.uint8


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("shape", [(20, 120, 160, 3), (20, 60, 80, 1), *ODD], ids=str)
def test_lossy_codecs_give_close_frames_for_any_shape(codec: str, shape: tuple[int, int, int, int]) -> None:
    frames = moving(shape)
    decoded = decode(codec, encode(codec, frames), shape)
    assert (decoded.shape, decoded.dtype) == (shape, np.uint8)
    assert decoded.flags.writeable
    assert np.abs(decoded.astype(int) - frames).mean() <= CLOSE[codec]


@pytest.mark.parametrize("codec", LOSSY)
def test_colours_keep_their_order_and_grey_keeps_its_range(codec: str) -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[..., 0], frames[..., 1] = 200, 90
    np.testing.assert_allclose(decode(codec, encode(codec, frames), frames.shape).mean((0, 1, 2)), [200, 90, 0], atol=3)
    for level in (0, 7, 128, 250, 255):
        grey = np.full((4, 32, 32, 1), level, np.uint8)
        np.testing.assert_allclose(decode(codec, encode(codec, grey), grey.shape), level, atol=1)


@pytest.mark.parametrize("codec", ENCODED)
def test_moving_frames_take_fewer_bytes_and_about_those_that_estimates_assume(codec: str) -> None:
    frames = moving((60, 120, 160, 3))
    assert encode(codec, frames).size < (0.9 if codec == "lossless" else CODECS[codec].share) * frames.size


@pytest.mark.parametrize("codec", CODECS)
def test_a_clip_without_frames_takes_no_bytes(codec: str) -> None:
    shape = (0, 12, 16, 3)
    data = encode(codec, np.zeros(shape, np.uint8))
    assert data.size == 0
    assert decode(codec, data, shape).shape == shape


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_frames_give_the_same_bytes_also_in_many_threads(codec: str) -> None:
    frames = moving((12, 60, 80, 1))
    wanted = encode(codec, frames).to_pybytes()
    with ThreadPoolExecutor(4) as threads:
        # As often as that: in the first version, x264 gave one of several results.
        assert set(threads.map(lambda _: encode(codec, frames).to_pybytes(), range(60))) == {wanted}
        decoded = list(threads.map(lambda _: decode(codec, wanted, frames.shape).tobytes(), range(12)))
    assert set(decoded) == {decode(codec, wanted, frames.shape).tobytes()}


@pytest.mark.parametrize("codec", CODECS)
def test_frames_that_are_no_contiguous_array_are_encoded(codec: str) -> None:
    frames = moving((8, 48, 64, 3))
    for view in (frames[::2], frames[:, ::2, ::-1], frames[..., ::-1]):
        wanted = encode(codec, np.ascontiguousarray(view)).to_pybytes()
        assert encode(codec, view).to_pybytes() == wanted


@pytest.mark.parametrize("codec", ENCODED)
@pytest.mark.parametrize(
    "shape", [(9, 24, 32, 3), (11, 24, 32, 3), (10**9, 24, 32, 3), (10, 26, 32, 3), (10, 24, 48, 3)], ids=str
)
def test_bytes_of_another_shape_are_refused(codec: str, shape: tuple[int, int, int, int]) -> None:
    data = encode(codec, moving((10, 24, 32, 3)))
    with pytest.raises(ValueError, match=r"\w+"):
        decode(codec, data, shape)


@pytest.mark.parametrize("codec", ENCODED)
def test_damaged_bytes_give_frames_or_a_refusal_but_no_crash(codec: str) -> None:
    shape = (6, 24, 32, 3)
    data, rng, refused = bytearray(encode(codec, moving(shape)).to_pybytes()), np.random.default_rng(0), 0
    for at in range(150):
        bad = bytearray(data)
        if at % 3 == 0:
            bad = bad[: rng.integers(len(data))]
        elif at % 3 == 1:
            bad[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            start = rng.integers(len(data))
            bad[start : start + 40] = rng.bytes(len(bad[start : start + 40]))
        try:
            assert decode(codec, bytes(bad), shape).shape == shape
        except ValueError:
            refused += 1
    assert refused > 45


def test_an_unknown_codec_is_refused_with_a_list_of_codecs() -> None:
    with pytest.raises(ValueError, match=r"codec must be one of raw, lossless, jpeg, h264, got 'gif'"):
        encode("gif", np.zeros((1, 2, 2, 1), np.uint8))
