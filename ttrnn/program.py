"""Write one step of a model as a torch.export program: plain operators, without ttrnn, and the cores themselves."""

import copy
import io
import json
import logging
from pathlib import Path
from typing import Any

import torch

from ttrnn.files import atomic_write
from ttrnn.model import VideoClassifier
from ttrnn.parity import checked, largest_difference, metadata, streamed
from ttrnn.step import Step, step_state

__all__ = ["export_program"]

log = logging.getLogger(__name__)

_METADATA = "ttrnn.json"


def export_program(model: VideoClassifier, path: str | Path) -> float:
    """Writes VideoClassifier.step as a torch.export program (.pt2), for any number of streams at once.

    `torch.export.load(path).module()` takes and gives what export_onnx_step says, in that order: frame and the parts of
    the state; logits, scores and the parts of the next state. extra_files={"ttrnn.json": ""} of torch.export.load
    brings what the ONNX file has as metadata, as JSON.

    torch.export.load uses pickle, which may run any program: load only files from people you trust. Loading a model
    directory or an ONNX file runs nothing.

    Args:
        model: Taken in eval mode and float32; not changed.
        path: The file, written whole or not at all. It takes 4 bytes a parameter and some 50 kB.

    Returns:
        The largest |file - model| / (1 + |model|) of the outputs, for one or three streams of 1 to 4 frames.

    Raises:
        ValueError: the model is bidirectional.
        RuntimeError: the outputs differ by more than 1e-4.
    """
    if model.config.bidirectional:
        raise ValueError("bidirectional models can't stream, they start at the last frame; give one trained without")
    model = copy.deepcopy(model).cpu().float().eval()
    with torch.no_grad():
        program = _traced(model)

        def run(contents: bytes) -> float:
            module = torch.export.load(io.BytesIO(contents)).module()
            return largest_difference(
                model, lambda frames, _: streamed(model, frames, lambda frame, state: module(frame, *state.values()))
            )

        difference = checked("program", run(_saved(program, {})))
    contents = _saved(program, metadata(model, "step", difference))
    with atomic_write(path, "wb") as file:
        file.write(contents)
    log.info("%s: %d bytes, outputs within %.1e of the model's", Path(path).name, len(contents), difference)
    return difference


def _traced(model: VideoClassifier) -> Any:
    # Any batch but 0 and 1, which torch.export would take for constants.
    state, config = step_state(model, 2), model.config
    frame = torch.zeros(2, config.height, config.width, config.channels, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    axes = tuple({1 if part.dim() == 3 else 0: batch} for part in state.values())
    program = torch.export.export(Step(model).eval(), (frame, *state.values()), dynamic_shapes=({0: batch}, axes))
    # The file would contain the source line of every node.
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(name, None)
    # They would be written too.
    program.example_inputs = None
    return program


def _saved(program: Any, about: dict[str, str]) -> bytes:
    contents = io.BytesIO()
    torch.export.save(program, contents, extra_files={_METADATA: json.dumps(about)})
    return contents.getvalue()
