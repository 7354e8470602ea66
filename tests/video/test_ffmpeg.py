"""Videos of many codecs, containers and kinds, frame by frame against an FFmpeg that is run beside."""

import functools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decode import decode
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling

CASES = Path(__file__).parents[3] / "shared" / "cases"
WIDTH, HEIGHT, NUM_FRAMES = 96, 64, 12
SOUND = "-f lavfi -i sine=d={}"
SOURCE = f"testsrc2=s={WIDTH}x{HEIGHT}:r=25:d={NUM_FRAMES / 25}"


@functools.cache
def ffmpeg() -> str:
    return str(pytest.importorskip("imageio_ffmpeg", reason="no FFmpeg to compare with").get_ffmpeg_exe())


def run(arguments: str, *paths: Path) -> None:
    """Runs ffmpeg; in the arguments, {0} and so on are paths."""
    command = [part.format(*paths) for part in arguments.split()]
    subprocess.run([ffmpeg(), "-v", "error", "-y", "-threads", "1", *command], check=True, timeout=60)


def reference(file: Path, folder: Path, width: int, height: int) -> tuple[np.ndarray, list[float]]:
    """The frames [T, H, W, 3] and their times in s from the first one, as FFmpeg shows them."""
    raw, stamps = folder / "frames", folder / "stamps"
    run("-i {0} -map 0:V:0 -fps_mode passthrough -f rawvideo -pix_fmt rgb24 {1} "
        "-map 0:V:0 -fps_mode passthrough -f framecrc {2}", file, raw, stamps)  # fmt: skip
    lines = stamps.read_text().splitlines()
    tick = next(line.split()[-1] for line in lines if line.startswith("#tb"))
    numerator, denominator = map(int, tick.split("/"))
    times = [int(line.split(",")[2]) * numerator / denominator for line in lines if not line.startswith("#")]
    return np.fromfile(raw, np.uint8).reshape(-1, height, width, 3), [time - times[0] for time in times]


# Name: options of the encoder; the container is the suffix.
CODECS = {
    "h264.mp4": "-c:v libx264 -pix_fmt yuv420p -bf 0",
    "h264 with B-frames.mp4": "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 5",
    "h264 with B-frames.mkv": "-c:v libx264 -pix_fmt yuv420p -bf 3",
    "h264.flv": "-c:v libx264 -pix_fmt yuv420p",
    "h264.ts": "-c:v libx264 -pix_fmt yuv420p",
    "h264 4:4:4.mkv": "-c:v libx264 -pix_fmt yuv444p",
    "h264 10 bit.mp4": "-c:v libx264 -pix_fmt yuv420p10le",
    "h264 full range.mp4": "-c:v libx264 -pix_fmt yuvj420p -color_range pc",
    "h264 BT.709.mp4": "-c:v libx264 -pix_fmt yuv420p -colorspace bt709 -color_primaries bt709 -color_trc bt709",
    "hevc.mp4": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none",
    "hevc 10 bit.mkv": "-c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=none",
    "av1.mp4": "-c:v libaom-av1 -cpu-used 8 -pix_fmt yuv420p",
    "vp8.webm": "-c:v libvpx",
    "vp9.webm": "-c:v libvpx-vp9 -pix_fmt yuv420p",
    "vp9 with alpha.webm": "-c:v libvpx-vp9 -pix_fmt yuva420p",
    "mpeg4.avi": "-c:v mpeg4",
    "mpeg4 with B-frames.avi": "-c:v mpeg4 -bf 2",
    "mjpeg.avi": "-c:v mjpeg -pix_fmt yuvj422p",
    "raw.avi": "-c:v rawvideo -pix_fmt bgr24",
    "ffv1.mkv": "-c:v ffv1",
    "huffyuv.avi": "-c:v huffyuv",
    "prores.mov": "-c:v prores_ks",
    "prores with alpha.mov": "-c:v prores_ks -pix_fmt yuva444p10le",
    "animation.mov": "-c:v qtrle",
    "mpeg1.mpg": "-c:v mpeg1video",
    "mpeg2.vob": "-c:v mpeg2video",
    "mpeg2.mxf": "-c:v mpeg2video",
    "wmv2.wmv": "-c:v wmv2",
    "theora.ogv": "-c:v libtheora",
    "h263.3gp": "-c:v h263 -s 128x96",
    "grey.mkv": "-c:v ffv1 -pix_fmt gray",
    "palette.gif": "-c:v gif",
    "interlaced h264.mp4": "-vf setfield=tff -c:v libx264 -flags +ildct+ilme -pix_fmt yuv420p",
    "interlaced h264.ts": "-vf setfield=bff -c:v libx264 -flags +ildct+ilme -pix_fmt yuv420p",
    "interlaced mpeg2.vob": "-vf setfield=tff -c:v mpeg2video -flags +ildct+ilme",
    "interlaced prores.mov": "-vf setfield=tff -c:v prores_ks -flags +ildct",
    "odd size.avi": "-vf crop=75:49 -c:v mpeg4",
    "odd size.mkv": "-vf crop=75:49 -c:v libx264 -pix_fmt yuv444p",
    "variable rate.mp4": "-vf setpts=N*N*0.01/TB -fps_mode vfr -c:v libx264 -pix_fmt yuv420p",
    "variable rate.webm": "-vf setpts=N*N*0.01/TB -fps_mode vfr -c:v libvpx",
    "pixel aspect.mp4": "-vf setsar=2 -c:v libx264 -pix_fmt yuv420p",
    "start offset.ts": "-c:v libx264 -pix_fmt yuv420p -output_ts_offset 7",
    "start offset.mkv": "-c:v ffv1 -output_ts_offset 7",
}
SIZES = {"odd size.avi": (75, 49), "odd size.mkv": (75, 49), "h263.3gp": (128, 96)}


@pytest.mark.parametrize("name", CODECS)
def test_frames_and_times_are_those_of_ffmpeg(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"video{Path(name).suffix}"
    run(f"-f lavfi -i {SOURCE} {CODECS[name]} {{0}}", file)
    compare(file, tmp_path, SIZES.get(name, (WIDTH, HEIGHT)))


def compare(file: Path, folder: Path, size: tuple[int, int]) -> None:
    wanted, times = reference(file, folder, *size)
    decoded = decode(file, FrameSize(*size, 3), Sampling())
    assert decoded.frames.shape == wanted.shape
    differences = np.abs(decoded.frames.astype(np.int16) - wanted).mean(axis=(1, 2, 3))
    assert differences.max() < 2, differences.round(1)
    assert decoded.times == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        pytest.param("-display_rotation 90", (HEIGHT, WIDTH), id="90"),
        pytest.param("-display_rotation 180", (WIDTH, HEIGHT), id="180"),
        pytest.param("-display_rotation 270", (HEIGHT, WIDTH), id="270"),
        pytest.param("-display_hflip", (WIDTH, HEIGHT), id="mirrored"),
        pytest.param("-display_vflip", (WIDTH, HEIGHT), id="upside down"),
        pytest.param("-display_rotation 90 -display_hflip", (HEIGHT, WIDTH), id="90 and mirrored"),
        pytest.param("-display_rotation 270 -display_hflip", (HEIGHT, WIDTH), id="270 and mirrored"),
    ],
)
def test_display_matrices_are_applied(tmp_path: Path, arguments: str, size: tuple[int, int]) -> None:
    plain, file = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    run(f"-f lavfi -i {SOURCE} -c:v libx264 -pix_fmt yuv420p {{0}}", plain)
    run(f"{arguments} -i {{0}} -c copy {{1}}", plain, file)
    compare(file, tmp_path, size)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_part_that_was_cut_out_without_encoding_is_no_truncated_file(tmp_path: Path, suffix: str) -> None:
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    run(f"-f lavfi -i {SOURCE.replace(str(NUM_FRAMES / 25), '2')} -c:v libx264 -pix_fmt yuv420p {{0}}", whole)
    run("-ss 0.7 -i {0} -c copy {1}", whole, part)
    compare(part, tmp_path, (WIDTH, HEIGHT))


@pytest.mark.parametrize("seconds", [0.1, 3])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_sound_may_be_shorter_or_longer_than_the_images(tmp_path: Path, suffix: str, seconds: float) -> None:
    file = tmp_path / f"video{suffix}"
    sound = SOUND.format(seconds)
    run(f"-f lavfi -i {SOURCE} {sound} -c:v mpeg4 -c:a mp2 {{0}}", file)
    compare(file, tmp_path, (WIDTH, HEIGHT))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm", ".wmv", ".mov"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_file_that_ends_early_is_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    file = tmp_path / f"video{suffix}"
    codec = {".webm": "libvpx", ".wmv": "wmv2"}.get(suffix, "mpeg4")
    # The index first: otherwise nothing of an MP4 file can be read.
    index_first = "-movflags faststart" if suffix in (".mp4", ".mov") else ""
    run(f"-f lavfi -i {SOURCE.replace(str(NUM_FRAMES / 25), '3')} -c:v {codec} {index_first} {{0}}", file)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(RejectedError) as error:
        decode(file, FrameSize(8, 8, 3), Sampling())
    assert error.value.reason == "truncated"
    assert error.value.facts is not None
    assert error.value.facts[:3] == (error.value.facts.codec, WIDTH, HEIGHT)
    assert error.value.facts.announced_frames == pytest.approx(75, abs=2)


def test_the_cover_of_an_album_is_no_video(tmp_path: Path) -> None:
    picture, file = tmp_path / "cover.png", tmp_path / "song.mp4"
    run(f"-f lavfi -i {SOURCE} -frames:v 1 {{0}}", picture)
    run("-f lavfi -i sine=d=1 -i {0} -map 0 -map 1 -c:v copy -disposition:v:0 attached_pic {1}", picture, file)
    with pytest.raises(RejectedError, match="unreadable"):
        decode(file, FrameSize(8, 8, 3), Sampling())


def test_hdr_is_shown_in_the_brightness_of_a_screen(tmp_path: Path) -> None:
    file = tmp_path / "hdr.mp4"
    # Diffuse white of HLG is at 75% of the signal; without a conversion it would come out as 191.
    run("-f lavfi -i color=c=0xbfbfbf:s=32x32:r=25:d=0.08,format=yuv420p10le -c:v libx264 -x264-params "
        "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc {0}", file)  # fmt: skip
    frames = decode(file, FrameSize(8, 8, 3), Sampling()).frames
    assert frames.min() > 230


def case_files() -> list[Path]:
    return sorted(file for file in CASES.glob("*.*") if file.suffix in (".mp4", ".mkv", ".webm"))


@pytest.mark.skipif(not CASES.exists(), reason=f"no cases in {CASES}")
@pytest.mark.parametrize("file", case_files(), ids=lambda file: file.name)
def test_cases_that_went_wrong(file: Path) -> None:
    wanted = np.load(f"{file}.npz")["frames"]
    expected = json.loads((CASES / "expected.json").read_text())[file.name]
    decoded = decode(file, FrameSize(wanted.shape[2], wanted.shape[1], 3), Sampling())
    assert decoded.frames.shape == wanted.shape == (expected["frames"], *wanted.shape[1:])
    assert np.abs(decoded.frames.astype(np.int16) - wanted).mean() < 2
    assert decoded.times == pytest.approx(expected["times_s"], abs=2e-3)
