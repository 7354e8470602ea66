"""The C code in int8 on a Cortex-M4 that QEMU emulates, bit for bit; prints size and instructions. By make test-mcu.

Needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.ttrnn.test_export_onnx import clips, make
from ttrnn.portable.c import c_files
from ttrnn.portable.c_tables import state_bytes
from ttrnn.portable.rounding import integer_model

HERE = Path(__file__).parent
TOOLS = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
FLAGS = ("-mcpu=cortex-m4", "-mthumb", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffunction-sections",
         "-fdata-sections")  # fmt: skip
LARGE = {"width": 160, "height": 120, "in_modes": "8x20x20x18", "hidden_modes": "4x4x4x4", "ranks": "4",
         "recurrent_ranks": "4"}  # fmt: skip
MODELS = {
    "gru, differences, two layers": {"differences": "extra", "num_layers": 2, "pooling": "mean"},
    "lstm, attention": {"cell": "lstm", "pooling": "attention"},
    "stem": {"stem": "conv", "in_modes": "2x2x16", "differences": "extra", "pooling": "max"},
    "160x120x3, gru, tt recurrent": LARGE,
    "160x120x3, gru of 64 states": {**LARGE, "hidden_modes": "2x2x4x4"},
}

pytestmark = [pytest.mark.mcu, *(
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed") for tool in TOOLS
)]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_cortex_m4_gives_the_same_bits(name, tmp_path, capsys):
    model = make(**MODELS[name])
    frames = clips(model, 1, 4)[0].numpy()
    weights = integer_model(model, [frames])
    for file, text in c_files(weights).items():
        (tmp_path / file).write_text(text)
    values = ",".join(map(str, frames.ravel().tolist()))
    header = f"#include <stdint.h>\n#define NUM_FRAMES {len(frames)}u\nstatic const uint8_t frames[] = {{{values}}};\n"
    (tmp_path / "frames.h").write_text(header)
    gcc = [TOOLS[0], *FLAGS, "-I", tmp_path]
    link = ["--specs=rdimon.specs", "-T", HERE / "board.ld", "-Wl,--gc-sections", "-o", tmp_path / "board.elf"]
    subprocess.run([*gcc, "-c", tmp_path / "model.c", "-o", tmp_path / "model.o"], check=True)
    subprocess.run([*gcc, HERE / "board.c", tmp_path / "model.o", *link], check=True)
    board = ["-machine", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=0",
             "-semihosting-config", "enable=on,target=native"]  # fmt: skip
    done = subprocess.run([TOOLS[2], *board, "-kernel", tmp_path / "board.elf"],
                          capture_output=True, text=True, timeout=200, check=True)  # fmt: skip
    *rows, count = [line for line in done.stdout.splitlines() if line]
    found = np.array([[int(word, 16) for word in row.split()] for row in rows], np.uint32).astype(np.int32)
    np.testing.assert_array_equal(found, weights(frames)[0][1:])
    size = subprocess.run([TOOLS[1], tmp_path / "model.o"], capture_output=True, text=True, check=True).stdout
    text, data, bss = size.splitlines()[1].split()[:3]
    assert (data, bss) == ("0", "0")
    ram, params = state_bytes(weights), model.num_params
    with capsys.disabled():
        sys.stdout.write(f"\n{name}: {params:,} parameters, {ram:,} bytes of RAM, {text} of flash, {count}\n")
