"""Arrays as clips: the same values come out, and whatever is no array of frames is rejected with its reason."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from pipelines.video import arrays, decode
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.values import to_uint8
from pipelines.video.worker import IsolatedDecoder

RANDOM = np.random.default_rng(0)
GREY, RGB = (RANDOM.integers(0, 256, shape, np.uint8) for shape in ((12, 8, 8), (12, 24, 32, 3)))


def save_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path.with_suffix(".npy"), array)
    return path.with_suffix(".npy")


def save_npy_by_columns(path: Path, array: np.ndarray) -> Path:
    return save_npy(path, np.asfortranarray(array))


def save_npy_2(path: Path, array: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    return path


def save_npz(path: Path, array: np.ndarray) -> Path:
    np.savez(path.with_suffix(".npz"), array)
    return path.with_suffix(".npz")


def save_compressed(path: Path, array: np.ndarray) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), frames=array, labels=np.arange(5), fps=10)
    return path.with_suffix(".npz")


def write_arrow(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    batch = pa.record_batch(columns)
    with pa.ipc.new_file(str(path), batch.schema.with_metadata(metadata)) as writer:
        writer.write(batch)
    return path


def save_arrow(path: Path, array: np.ndarray) -> Path:
    return write_arrow(path.with_suffix(".arrow"), {"f": pa.FixedShapeTensorArray.from_numpy_ndarray(array)})


def save_feather(path: Path, array: np.ndarray) -> Path:
    """Lists in lists, compressed, in several batches."""
    feather.write_feather(pa.table({"frames": pa.array(array.tolist(), _lists(array))}), str(path), chunksize=5)
    return path


def _lists(array: np.ndarray) -> pa.DataType:
    kind = pa.from_numpy_dtype(array.dtype)
    for _ in array.shape[1:]:
        kind = pa.list_(kind)
    return kind


def save_tensor(path: Path, array: np.ndarray) -> Path:
    with pa.OSFile(str(path), "wb") as file:
        pa.ipc.write_tensor(pa.Tensor.from_numpy(array), file)
    return path


SAVE: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "npy": save_npy,
    "npy, Fortran order": save_npy_by_columns,
    "npy 2.0": save_npy_2,
    "npz": save_npz,
    "npz, compressed": save_compressed,
    "Arrow, tensors": save_arrow,
    "Arrow, lists": save_feather,
    "Arrow tensor": save_tensor,
}


def frame_of(array: np.ndarray) -> FrameSize:
    return FrameSize(array.shape[2], array.shape[1], 3 if array.shape[3:] == (3,) else 1)


def read(path: Path, array: np.ndarray, **sampling: Any) -> decode.Decoded:
    return decode.decode(path, frame_of(array), Sampling(**sampling))


def reason(path: Path, **sampling: Any) -> str:
    with pytest.raises(RejectedError) as error:
        decode.decode(path, FrameSize(8, 8, 1), Sampling(**sampling))
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("array", [GREY, GREY[..., None], RGB], ids=["T x H x W", "T x H x W x 1", "T x H x W x 3"])
@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE)
def test_uint8_comes_out_as_it_is(tmp_path: Path, save: Callable[[Path, np.ndarray], Path], array: np.ndarray) -> None:
    file = save(tmp_path / "clip", array)
    found = read(file, array).frames
    np.testing.assert_array_equal(found, array.reshape(*array.shape[:3], -1))
    assert decode.array_size(str(file)) == frame_of(array)
    # The content decides, not the name.
    np.testing.assert_array_equal(read(file.rename(tmp_path / "clip.mp4"), array).frames, found)


@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE)
@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        ({"max_frames": 5}, range(5)),
        ({"every": 5}, range(0, 12, 5)),
        ({"num_frames": 3}, (2, 6, 10)),
        ({"num_frames": 99}, range(12)),
    ],
    ids=str,
)
def test_frames_are_sampled_as_those_of_videos(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path], sampling: dict[str, Any], wanted: Any
) -> None:
    found = read(save(tmp_path / "clip", GREY), GREY, **sampling).frames
    np.testing.assert_array_equal(found[..., 0], GREY[list(wanted)])


@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE)
@pytest.mark.parametrize(
    "kind", ["u2", ">u2", "i1", "i2", "<i4", "u8", "f2", "f4", ">f8"], ids=lambda kind: np.dtype(kind).str
)
def test_other_numbers_become_uint8_by_the_stated_range(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path], kind: str
) -> None:
    values = RANDOM.integers(0, 100, (5, 8, 8)).astype(kind)
    if save in (save_arrow, save_feather, save_tensor):
        values = values.astype(values.dtype.newbyteorder("="))
    file = save(tmp_path / "clip", values)
    assert reason(file) == "no_range"
    wanted = np.rint(np.clip((values.astype(float) - 10) * 255 / 60, 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(read(file, values, value_range="10:70").frames[..., 0], wanted)


def test_a_stated_range_does_not_change_uint8(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(save_npy(tmp_path / "a", GREY), GREY, value_range="0:10").frames[..., 0], GREY)


def test_values_beyond_the_range_and_no_numbers_take_the_ends() -> None:
    values = np.array([-np.inf, -1, 0, 0.5, 1, 2, np.inf, np.nan], np.float32)
    assert to_uint8(values, (0.0, 1.0)).tolist() == [0, 0, 0, 128, 255, 255, 255, 0]
    assert to_uint8(np.array([-40, -20, 30, 1 << 40]), (-20.0, 30.0)).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("text", ["", "5", "1:2:3", "a:b", "2:1", "1:1", "nan:1", "0:inf", "-1e308:1e308", "0:1e-320"])
def test_a_range_must_be_two_numbers_in_order(text: str) -> None:
    with pytest.raises(ValueError, match="value_range must be LOW:HIGH"):
        Sampling(value_range=text)


def test_the_range_is_stored_with_the_data_but_only_if_there_is_one() -> None:
    sampling = Sampling(value_range="-5:30", picture_fps=12)
    assert Sampling.from_dict(sampling.to_dict()) == sampling
    assert Sampling().to_dict().keys() == {"max_frames", "num_frames", "fps", "every", "fit"}


def test_arrays_are_resized_as_images_are(tmp_path: Path) -> None:
    found = decode.decode(save_npy(tmp_path / "a", RGB), FrameSize(16, 12, 3), Sampling()).frames
    wanted = RGB.reshape(12, 12, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(found - wanted).max() <= 0.5


@pytest.mark.parametrize(
    ("others", "fps", "times"),
    [
        ({}, 0, np.arange(12) / 25),
        ({"fps": 8}, 8, np.arange(12) / 8),
        ({"fps": np.float32(7.5)}, 7.5, np.arange(12) / 7.5),
        ({"times": 3 + np.arange(12) * 0.25}, 4, np.arange(12) / 4),
        ({"times": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 22]}, 0.5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 22]),
    ],
    ids=["none", "fps", "float32", "times", "a gap"],
)
@pytest.mark.parametrize("is_arrow", [False, True], ids=["npz", "Arrow"])
def test_times_are_those_that_are_stored(
    tmp_path: Path, others: dict[str, Any], fps: float, times: Any, is_arrow: bool
) -> None:
    file = tmp_path / "clip"
    if is_arrow:
        columns = {"frames": pa.FixedShapeTensorArray.from_numpy_ndarray(GREY)}
        columns |= {"times": pa.array(others["times"])} if "times" in others else {}
        write_arrow(file, columns, {"fps": str(others["fps"])} if "fps" in others else None)
    else:
        with file.open("wb") as opened:
            np.savez(opened, frames=GREY, **others)
    decoded = read(file, GREY)
    assert decoded.fps == pytest.approx(fps)
    assert decoded.times == pytest.approx(list(times))
    if fps:
        ticks = np.floor(np.array(decoded.times) * fps / 2 + 1e-6)
        assert len(read(file, GREY, fps=fps / 2).frames) == len(np.unique(ticks))
    else:
        assert reason(file, fps=5) == "no_rate"


@pytest.mark.parametrize(
    "others",
    [
        {"fps": 0}, {"fps": -1}, {"fps": np.nan}, {"fps": np.inf}, {"fps": [8, 8]}, {"fps": "8"}, {"fps": 8j},
        {"times": np.arange(11)}, {"times": -np.arange(12)}, {"times": [np.nan] * 12}, {"times": [-np.inf, *range(11)]},
        {"times": np.arange(12).astype(str)}, {"times": np.zeros((12, 2))},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_times_are_rejected(tmp_path: Path, others: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", frames=GREY, **others)
    assert reason(tmp_path / "a.npz") == "wrong_times"


def test_wrong_times_in_an_arrow_file_are_rejected(tmp_path: Path) -> None:
    frames = pa.FixedShapeTensorArray.from_numpy_ndarray(GREY)
    for times in (pa.array([None, *range(11)], pa.float64()), pa.array(list("abcdefghijkl"))):
        assert reason(write_arrow(tmp_path / "a.arrow", {"frames": frames, "times": times})) == "wrong_times"
    assert reason(write_arrow(tmp_path / "b.arrow", {"frames": frames}, {"fps": "fast"})) == "wrong_times"


SHAPES: dict[str, tuple[int, ...]] = {
    "no axis": (), "T": (5,), "T x H": (5, 8), "5 axes": (2, 5, 8, 8, 3), "2 channels": (5, 8, 8, 2),
    "4 channels": (5, 8, 8, 4), "channels first": (5, 3, 8, 8), "no rows": (5, 0, 8), "no columns": (5, 8, 0),
    "no channels": (5, 8, 8, 0),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("save", [save_npy, save_npz, save_tensor], ids=["npy", "npz", "Arrow tensor"])
def test_other_shapes_are_rejected(tmp_path: Path, save: Any, shape: tuple[int, ...]) -> None:
    assert reason(save(tmp_path / "a", np.zeros(shape, np.uint8))) == "wrong_shape"


@pytest.mark.parametrize("save", [save_npy, save_npz, save_compressed, save_tensor])
def test_an_array_without_frames_is_rejected(tmp_path: Path, save: Any) -> None:
    assert reason(save(tmp_path / "a", np.zeros((0, 8, 8), np.uint8))) == "no_frames"


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    objects = np.full((5, 8, 8), Payload(tmp_path / "executed"), object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", frames=objects)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    assert [reason(tmp_path / name) for name in ("a.npy", "a.npz", "pickle.npy")] == [
        "wrong_type",
        "wrong_type",
        "unreadable",
    ]
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "array",
    [np.zeros((5, 8, 8), "c8"), np.zeros((5, 8, 8), "S3"), np.zeros((5, 8, 8), "M8[s]"), np.zeros((5, 8), "u1,f4")],
    ids=["complex", "text", "dates", "fields"],
)
def test_an_array_without_numbers_is_rejected(tmp_path: Path, array: np.ndarray) -> None:
    assert reason(save_npy(tmp_path / "a", array), value_range="0:1") == "wrong_type"


def header(shape: str, kind: str = "|u1", order: str = "False") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


HOSTILE = {
    "empty": (b"\x93NUMPY", "unreadable"),
    "negative sides": (header("(2, -8, -8)") + b"x" * 128, "wrong_shape"),
    "negative length": (header("(-2, 8, 8)") + b"x" * 128, "wrong_shape"),
    "huge shape": (header("(9999999999, 99999999999, 99999999999)") + b"x" * 128, "too_large"),
    "huge frame": (header("(1, 50000, 50000)") + b"x" * 128, "too_large"),
    "huge length": (header("(99999999999999999999, 8, 8)") + b"x" * 640, "truncated"),
    "huge, by columns": (header("(99999999999999999999, 8, 8)", order="True") + b"x" * 640, "no_frames"),
    "cut within the first frame": (header("(5, 8, 8)") + b"x" * 63, "no_frames"),
    "half of the frames": (header("(20, 8, 8)") + b"x" * 640, "truncated"),
    "a float": (header("(5., 8, 8)") + b"x" * 640, "unreadable"),
    "text": (header("'abc'") + b"x" * 640, "unreadable"),
    "code": (header("__import__('os').getpid()") + b"x" * 640, "unreadable"),
    "brackets": (header("(" * 9000) + b"x" * 640, "unreadable"),
    "comment": (header("(5, 8, 8) #") + b"x" * 640, "unreadable"),
    "dedent": (header("\n  (5,\n (8, 8)") + b"x" * 640, "unreadable"),
    "unknown kind": (header("(5, 8, 8)", kind="|zz") + b"x" * 640, "unreadable"),
    "huge kind": (header("(5, 8, 8)", kind="|V2000000000") + b"x" * 640, "wrong_type"),
    "later version": (b"\x93NUMPY\x09\x00" + b"x" * 640, "unreadable"),
    "huge header": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"x" * 640, "unreadable"),
}


@pytest.mark.parametrize(("content", "wanted"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("is_archive", [False, True], ids=["npy", "npz"])
def test_headers_that_lie_are_rejected(
    tmp_path: Path, content: bytes, wanted: str, is_archive: bool, decoder: IsolatedDecoder
) -> None:
    file = tmp_path / "a.npy"
    file.write_bytes(content)
    if is_archive:
        file = tmp_path / "a.npz"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("frames.npy", content)
    assert reason(file) == wanted
    assert decoder.count_frames(file) >= 0


def test_headers_of_python_2_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header("(12L, 8L, 8L)") + GREY.tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.npy", GREY).frames[..., 0], GREY)


def test_a_cut_array_keeps_its_whole_frames_if_few_are_missing(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 256, (150, 8, 8), np.uint8)
    file = save_npy(tmp_path / "a", array)
    os.truncate(file, file.stat().st_size - 64 * 30 - 10)
    np.testing.assert_array_equal(read(file, array).frames[..., 0], array[:119])


@pytest.mark.parametrize("save", [save_npz, save_compressed])
def test_damaged_archives_are_rejected(tmp_path: Path, save: Any) -> None:
    file = save(tmp_path / "a", RGB)
    intact = file.read_bytes()
    file.write_bytes(intact[: len(intact) // 2])
    assert reason(file) == "unreadable"
    file.write_bytes(intact[: len(intact) // 2] + b"\0\xff\0\xff\0\xff" + intact[len(intact) // 2 + 6 :])
    assert reason(file) == "damaged"


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ({"a.txt": b"text"}, "unreadable"),
        ({"a.npy": header("(1, 8, 8)") + b"x" * 64, "b.npy": header("(1, 8, 8)") + b"x" * 64}, "several_arrays"),
        ({"fps.npy": header("()")}, "unreadable"),
    ],
    ids=["no array", "two arrays", "only a rate"],
)
def test_an_archive_must_have_one_array(tmp_path: Path, members: dict[str, bytes], wanted: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert reason(tmp_path / "a.npz") == wanted


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_numpy_does_not_write_is_unreadable(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("a.npy", header("(1, 8, 8)") + b"x" * 64)
    assert reason(tmp_path / "a.npz") == "unreadable"


def test_a_recording_beyond_the_memory_of_the_decoder_is_sampled(tmp_path: Path) -> None:
    file, num_frames, size = tmp_path / "a.npy", 30_000, 512 * 640 * 2
    start = header(f"({num_frames}, 512, 640)", "<u2")
    with file.open("wb") as opened:
        opened.write(start)
        for number in (3750, 26250):
            opened.seek(len(start) + number * size)
            opened.write(np.full(size // 2, number, "<u2").tobytes())
        opened.truncate(len(start) + num_frames * size)
    with IsolatedDecoder(60) as decoder:
        frames = decoder.decode(file, FrameSize(8, 8, 1), Sampling(num_frames=4, value_range="0:30000")).frames
    assert frames[:, 0, 0, 0].tolist() == [32, 0, 0, 223]


def test_a_bomb_is_read_frame_by_frame_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, num_frames = io.BytesIO(), 100_000
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("frames.npy", "w") as member,
    ):
        member.write(header(f"({num_frames}, 64, 64)"))
        for _ in range(num_frames // 1000):
            member.write(bytes(64 * 64 * 1000))
    file = tmp_path / "bomb.npz"
    file.write_bytes(stream.getvalue())
    assert file.stat().st_size < 4e6
    monkeypatch.setattr(decode, "MAX_CLIP_BYTES", 64 * 1000)
    assert reason(file) == "too_large"
    assert decode.decode(file, FrameSize(8, 8, 1), Sampling(max_frames=3)).frames.shape == (3, 8, 8, 1)


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"a": pa.array([1, 2]), "b": pa.array([1, 2])}, "several_arrays"),
        ({"times": pa.array([1, 2])}, "unreadable"),
        ({"a": pa.array([1, 2])}, "wrong_shape"),
        ({"a": pa.array(["x", "y"])}, "wrong_type"),
        ({"a": pa.array([[["x"]], [["y"]]])}, "wrong_type"),
        ({"a": pa.array([[[1, 2]], [[1]]], pa.list_(pa.list_(pa.uint8())))}, "wrong_shape"),
        ({"a": pa.array([[[1, 2]], None], pa.list_(pa.list_(pa.uint8())))}, "wrong_type"),
        ({"a": pa.array([[[1, None]]], pa.list_(pa.list_(pa.uint8())))}, "wrong_type"),
        ({"a": pa.array([], pa.list_(pa.list_(pa.uint8(), 8), 8))}, "no_frames"),
    ],
    ids=["two", "only times", "numbers", "text", "lists of text", "ragged", "null", "null value", "no rows"],
)
def test_other_arrow_files_are_rejected(tmp_path: Path, columns: dict[str, Any], wanted: str) -> None:
    assert reason(write_arrow(tmp_path / "a.arrow", columns)) == wanted


@pytest.mark.parametrize("save", [save_arrow, save_feather, save_tensor])
def test_cut_and_flipped_arrow_files_are_rejected_or_read(tmp_path: Path, save: Any, decoder: IsolatedDecoder) -> None:
    file = save(tmp_path / "a", GREY)
    intact = file.read_bytes()
    for place in range(8, len(intact), max(1, len(intact) // 60)):
        for content in (intact[:place], intact[:place] + bytes([intact[place] ^ 255]) + intact[place + 1 :]):
            file.write_bytes(content)
            (result,) = decoder.decode_many([file], FrameSize(8, 8, 1), Sampling(max_frames=20))
            if isinstance(result, RejectedError):
                assert result.reason not in ("timed_out", "missing")
            else:
                assert len(result.frames) <= 20


def test_a_file_is_an_array_by_its_content(tmp_path: Path) -> None:
    for name, content, is_array in (
        ("a.npy", b"text", False),
        ("b", b"\xff\xff\xff\xff\x10\0\0\0", True),
        ("c", b"\xff\xff\xff\xff\xff\xff\xff\xff", False),
        ("d", b"", False),
    ):
        (tmp_path / name).write_bytes(content)
        with (tmp_path / name).open("rb") as file:
            assert arrays.is_array(file) == is_array
    assert reason(tmp_path / "a.npy") == "unreadable"


def test_a_stream_has_the_frames_of_the_clip(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    array = RANDOM.integers(0, 1000, (100, 8, 8), np.uint16)
    file = save_compressed(tmp_path / "a", array)
    sampling = Sampling(value_range="0:1000", every=3)
    stream = decoder.stream(file, FrameSize(8, 8, 1), sampling)
    found = [(seconds, frame.copy()) for seconds, frame in stream.frames]
    decoded = decoder.decode(file, FrameSize(8, 8, 1), sampling)
    np.testing.assert_array_equal([frame for _, frame in found], decoded.frames)
    assert [seconds for seconds, _ in found] == pytest.approx(decoded.times)
    assert stream.fps == pytest.approx(10 / 3)
