"""ttrnn/stream.py, VideoClassifier.predict and .stream: frames as people have them, one way or the other."""

import gc

import numpy as np
import pytest
import torch

from tests.ttrnn.test_export_onnx import CASES, clips, make
from ttrnn.stream import as_frames


@pytest.mark.parametrize("name", [
    "gru, dense recurrent", "differences only", "pooling attention", "two layers of an lstm, tt recurrent, mean",
    "several labels", "stem", "stem, frames alone", "stem, differences only, grey",
])  # fmt: skip
def test_a_stream_gives_after_each_frame_what_predict_gives_for_the_clip_so_far(name):
    model = make(**CASES[name])
    frames = clips(model, 1, 6)[0]
    stream = model.stream()
    for number, frame in enumerate(frames, start=1):
        scores = stream.push(frame)
        assert stream.num_frames == number
        torch.testing.assert_close(scores, model.predict(frames[:number]), rtol=1e-4, atol=1e-5)
        if model.config.task == "single_label":
            assert scores.sum().item() == pytest.approx(1)


def test_streams_of_one_model_do_not_meet():
    model = make()
    first, second = clips(model, 2, 4)
    streams = model.stream(), model.stream()
    for pair in zip(first, second, strict=True):
        results = [stream.push(frame) for stream, frame in zip(streams, pair, strict=True)]
    for result, frames in zip(results, (first, second), strict=True):
        torch.testing.assert_close(result, model.predict(frames), rtol=1e-4, atol=1e-5)


def test_predict_takes_one_clip_or_several_with_their_lengths():
    model = make(bidirectional=True)
    frames = clips(model, 2, 5)
    several = model.predict(frames, lengths=[5, 3])
    torch.testing.assert_close(several, model.probabilities(model(frames, lengths=[5, 3])).detach())
    torch.testing.assert_close(model.predict(frames[1, :3]), several[1])
    with pytest.raises(ValueError, match=r"lengths must be 2 numbers from 1 to 5, got \[5, 6\]"):
        model.predict(frames, lengths=[5, 6])


def test_numpy_frames_serve_also_read_only_and_mirrored():
    model = make()
    frames = clips(model, 1, 3)[0].numpy()
    expected = model.predict(torch.from_numpy(frames.copy()))
    read_only = np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape)
    # As OpenCV's BGR pictures are turned to RGB.
    mirrored = np.ascontiguousarray(frames[..., ::-1])[..., ::-1]
    for given in (frames, read_only, mirrored):
        torch.testing.assert_close(model.predict(given), expected, rtol=0, atol=0)
        stream = model.stream()
        for frame in given:
            scores = stream.push(frame)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("frames", "words"), [
    pytest.param(torch.zeros(3, 8, 6, 3), r"uint8 \(T, 8, 6, 3\) or \(B, T, 8, 6, 3\): .* got float32", id="float"),
    pytest.param(torch.zeros(3, 6, 8, 3, dtype=torch.uint8), "got uint8 3x6x8x3", id="width before height"),
    pytest.param(torch.zeros(3, 3, 8, 6, dtype=torch.uint8), "got uint8 3x3x8x6", id="channels first"),
    pytest.param(torch.zeros(8, 6, 3, dtype=torch.uint8), "got uint8 8x6x3", id="one frame"),
    pytest.param(np.uint8(7), "got uint8 without axes", id="a number"),
    pytest.param(torch.zeros(0, 8, 6, 3, dtype=torch.uint8), "at least one frame", id="no frames"),
])  # fmt: skip
def test_other_frames_are_refused_in_one_line(frames, words):
    with pytest.raises(ValueError, match=words) as error:
        make().predict(frames)
    assert "\n" not in str(error.value)


def test_a_clip_is_no_frame():
    with pytest.raises(ValueError, match=r"uint8 \(8, 6, 3\): height, width, channels last; got uint8 1x8x6x3"):
        make().stream().push(torch.zeros(1, 8, 6, 3, dtype=torch.uint8))


def test_bidirectional_models_and_models_in_training_mode_are_refused_in_one_line():
    with pytest.raises(
        ValueError, match=r"^bidirectional models can't stream, they start at the last frame: use predict$"
    ):
        make(bidirectional=True).stream()
    model = make().train()
    for use in (model.stream, lambda: model.predict(clips(model, 1, 2))):
        with pytest.raises(ValueError, match=r"training mode, with dropout: call model.eval\(\) first"):
            use()


def test_frames_are_shared_where_they_can_be():
    frames = np.zeros((2, 8, 6, 3), np.uint8)
    assert as_frames(frames, (8, 6, 3), ("T",)).data_ptr() == frames.ctypes.data


def test_a_stream_holds_constant_memory():
    model = make(pooling="attention", differences="extra")
    frame, stream, held = clips(model, 1, 1)[0, 0], model.stream(), []
    for _ in range(2):
        for _ in range(30):
            stream.push(frame)
        gc.collect()
        held.append(sum(part.untyped_storage().nbytes() for part in gc.get_objects() if type(part) is torch.Tensor))
    assert len(set(held)) == 1
