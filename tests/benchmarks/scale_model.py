"""Estimate bytes, requests, hours, dollars and load of the command for a large sweep, by formulas of named parameters.

    python -m tests.benchmarks.scale --model

docs/scale.md has the results and the origin of each number.
"""

import dataclasses
from dataclasses import dataclass

__all__ = ["Parameters", "table"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """Parameters of the sweep, measurements on this machine, and assumptions about a cloud."""

    num_clips: int = 10_000
    """of the data set; given"""
    num_trials: int = 1_000
    """of the sweep; given"""
    num_gpus: int = 64
    """one trial each, one a node; given"""
    epochs: int = 16
    """of a trial; the default of sweep"""

    video_bytes: float = 440e3
    """of a clip of UCF101; measured: the mean of clips of ucf101_10"""
    decoded_frames: float = 150
    """of a clip, decoded for --num-frames too; measured: likewise"""
    num_frames: int = 32
    """kept of a clip; assumed: --num-frames 32"""
    frame_bytes: int = 160 * 120 * 3
    """uint8; the default of preprocess"""
    shard_bytes: float = 64e6
    """--shard-mb; the default of preprocess"""
    decode_rate: float = 3_300
    """frames per s of one processor, 320x240 MPEG-4 to 160x120; measured: pipelines.video.decode.decode on ucf101_10"""
    cores_of_node: int = 4
    """processors of a GPU node; assumed: g6.xlarge"""

    epochs_share: float = 0.7
    """of the planned epochs that are trained, the others are stopped early; assumed"""
    train_share: float = 0.7
    """of the clips in the train split, and 0.15 in validation; the default of splits"""
    gpu_rate: float = 20_000
    """frames per s that one GPU trains, validation counted likewise; assumed"""
    overhead_s: float = 0.2
    """of a trial beside its epochs; measured: tests.benchmarks.overhead, 200 trials"""
    num_params: float = 30_000
    """of a model on average; measured: tests.benchmarks.scale, space shapes"""
    run_bytes: float = 20e3
    """of a run beside 16 bytes for each parameter: model 4, checkpoint 12; measured: tests.benchmarks.scale"""

    ask_ms: float = 30.0
    """CPU time of the command for a new trial, and"""
    ask_ms_per_trial: float = 0.15
    """more for each trial that there is already; measured: tests.benchmarks.scale, and pipelines.search
    alone for 1,000 trials"""
    epoch_ms: float = 14.0
    """CPU time of the command for an epoch of a trial; measured: tests.benchmarks.scale"""
    head_epoch_ms: float = 21.0
    """CPU time of the process that stores the results of the nodes on the head, for an epoch; measured: likewise"""
    head_fsyncs: int = 12
    """for an epoch, of the same process, one after another; counted: the files of a run"""
    fsync_ms: float = 2.0
    """of the disk of the command's node; assumed: a network SSD"""
    head_ms_per_mb: float = 1.0
    """CPU time of the same, for what it gives; measured: 250 MB read through it"""
    journal_bytes: float = 5_300
    """of the study, for a trial; measured: tests.benchmarks.scale"""

    look_s: float = 5.0
    """the mirror looks so often whether it has to send something; pipelines.mirror"""
    zip_s: float = 30.0
    """it sends a running trial so often; pipelines.mirror"""
    files_of_trial: int = 6
    """it sends at a trial's end; pipelines.mirror"""

    node_bytes_per_s: float = 300e6
    """that a node receives; assumed: 2.5 Gbit/s"""
    boot_s: float = 300.0
    """from the request to a node that trains; assumed"""
    gpu_hour_usd: float = 0.80
    """of a node with one L4, on demand; assumed: g6.xlarge, us-west-2. Spot: about half"""
    disk_hour_usd: float = 0.0165
    """of 150 GB for a node; assumed: gp3 at 0.08 USD per GB and month"""
    put_usd: float = 5e-6
    """of a PUT; assumed: S3 standard"""
    get_usd: float = 4e-7
    """of a GET; assumed: likewise"""
    stored_gb_month_usd: float = 0.023
    """assumed: likewise; traffic within the region costs nothing"""


def rows(p: Parameters) -> list[tuple[str, str, str]]:
    """Rows of (name, formula, value); formulas use the values of earlier rows."""
    videos = p.num_clips * p.video_bytes
    shards = p.num_clips * p.num_frames * p.frame_bytes
    num_shards = shards / p.shard_bytes
    decode_s = p.num_clips * p.decoded_frames / p.decode_rate
    fetch_s = shards / p.node_bytes_per_s
    epoch_s = p.num_clips * p.num_frames * (p.train_share + 0.15) / p.gpu_rate
    trial_s = p.epochs * p.epochs_share * epoch_s + p.overhead_s
    num_epochs = p.num_trials * p.epochs * p.epochs_share
    # At the end, slots are idle while the last trials run, for half a trial on average.
    sweep_s = p.num_trials * trial_s / p.num_gpus + trial_s / 2
    run_bytes = 16 * p.num_params + p.run_bytes
    head_bytes = num_epochs * run_bytes
    command_s = p.num_trials * (p.ask_ms + p.ask_ms_per_trial * p.num_trials / 2) / 1e3 + num_epochs * p.epoch_ms / 1e3
    head_s = num_epochs * (p.head_epoch_ms + p.head_fsyncs * p.fsync_ms) / 1e3
    shards_head_s = shards * (p.num_gpus - 1) / 1e6 * p.head_ms_per_mb / 1e3
    looks = sweep_s / p.look_s
    journal = p.num_trials * p.journal_bytes
    puts = p.num_trials * (p.files_of_trial + trial_s // p.zip_s) + looks + 2 * num_shards
    gets = looks + num_shards * p.num_gpus + p.num_clips
    sent = p.num_trials * (trial_s // p.zip_s + 1) * run_bytes + looks * journal / 2
    hours = (p.boot_s + fetch_s + sweep_s + decode_s / (p.cores_of_node * p.num_gpus)) / 3600
    nodes_usd = hours * p.num_gpus * (p.gpu_hour_usd + p.disk_hour_usd)
    requests_usd = puts * p.put_usd + gets * p.get_usd
    stored_usd = (videos + shards + p.num_trials * run_bytes) / 1e9 * p.stored_gb_month_usd
    cores = p.cores_of_node * p.num_gpus
    return [
        ("videos", "num_clips x video_bytes", f"{videos / 1e9:.1f} GB"),
        ("shards", "num_clips x num_frames x frame_bytes", f"{shards / 1e9:.1f} GB in {num_shards:,.0f}"),
        ("decoding", "num_clips x decoded_frames / decode_rate", f"{decode_s / 60:.1f} min of one processor"),
        ("", "... / (num_gpus x cores_of_node)", f"{decode_s / cores:.0f} s on all {cores}"),
        ("to the caches", "shards x num_gpus, once", f"{shards * p.num_gpus / 1e12:.2f} TB"),
        ("", "shards / node_bytes_per_s", f"{fetch_s:.0f} s, all nodes at once"),
        ("an epoch", "num_clips x num_frames x (train_share + 0.15) / gpu_rate", f"{epoch_s:.1f} s"),
        ("a trial", "epochs x epochs_share x an epoch + overhead_s", f"{trial_s / 60:.1f} min"),
        ("the sweep", "num_trials x a trial / num_gpus + a trial / 2", f"{sweep_s / 60:.0f} min"),
        ("sent to the head", "epochs trained x (16 num_params + run_bytes)", f"{head_bytes / 1e9:.1f} GB"),
        ("", "... / the sweep", f"{head_bytes / sweep_s / 1e6:.1f} MB/s"),
        ("load of the command", "asks and epochs / the sweep", f"{command_s / sweep_s:.1%} of a processor"),
        (
            "load of the head",
            "epochs trained x (head_epoch_ms + head_fsyncs x fsync_ms) / the sweep",
            f"{head_s / sweep_s:.1%} of its time",
        ),
        (
            "shortest epoch",
            "num_gpus x (head_epoch_ms + head_fsyncs x fsync_ms): the head keeps up",
            f"{p.num_gpus * head_s / num_epochs:.1f} s",
        ),
        (
            "shards from the head",
            "shards x (num_gpus - 1) x head_ms_per_mb",
            f"{shards_head_s / 60:.0f} min, if not on s3://",
        ),
        ("PUTs", "num_trials x (files_of_trial + a trial / zip_s) + looks + 2 for each shard", f"{puts:,.0f}"),
        ("GETs", "looks + shards x num_gpus + num_clips", f"{gets:,.0f}"),
        ("mirrored", "running trials, ended ones, the journal at each look", f"{sent / 1e9:.1f} GB"),
        ("hours", "boot_s + to the caches + decoding + the sweep", f"{hours:.2f}"),
        ("nodes", "hours x num_gpus x (gpu_hour_usd + disk_hour_usd)", f"{nodes_usd:.2f} USD"),
        ("requests", "PUTs x put_usd + GETs x get_usd", f"{requests_usd:.2f} USD"),
        ("storage", "(videos + shards + runs) x stored_gb_month_usd", f"{stored_usd:.2f} USD a month"),
    ]


def table(p: Parameters | None = None) -> str:
    """Markdown tables of the results and of the parameters."""
    p = p or Parameters()
    lines = ["| what | formula | result |", "|---|---|---:|"]
    lines += [f"| {what} | {formula} | {value} |" for what, formula, value in rows(p)]
    lines += ["", "| parameter | value |", "|---|---:|"]
    lines += [f"| `{name}` | {value:,.10g} |" for name, value in dataclasses.asdict(p).items()]
    return "\n".join(lines)
