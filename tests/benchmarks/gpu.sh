#!/bin/sh
# All that a GPU must show, in at most 8 minutes: the gpu tests, frames/s of a training step at the paper's shapes in
# float32 and bfloat16 against cuDNN and tensorly-torch, and peak memory. Run it in the repository's root:
#
#     PYTHON=.venv/bin/python sh tests/benchmarks/gpu.sh [OUT]
set -eu
python=${PYTHON:-python3}
out=${1:-bench-gpu}
mkdir -p "$out"
"$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.__version__, torch.cuda.get_device_name())' \
    | tee "$out/machine.txt"
timeout 180 "$python" -m pytest -m gpu tests/ttrnn/test_contract.py tests/ttrnn/test_scan.py tests/ttrnn/test_recurrent.py -p no:cacheprovider \
    2>&1 | tee "$out/tests.txt" || echo "gpu tests failed" | tee -a "$out/tests.txt"
timeout 280 "$python" -m tests.benchmarks.gpu | tee "$out/steps.csv"
