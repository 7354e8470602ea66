"""Round a trained model to other ranks, as a start for training a smaller one.

Every matrix becomes the nearest one that the new configuration can hold: a tensor train is rounded, a dense matrix is
decomposed (decompose.py); biases, attention and classifier stay. Its cores come balanced, ready for an optimizer.
"""

import torch

from ttrnn.model import ModelConfig, VideoClassifier

__all__ = ["rounded"]

# Settings that must be equal: the names and meanings of weights depend on them.
_SAME = (
    "width",
    "height",
    "channels",
    "classes",
    "task",
    "cell",
    "num_layers",
    "bidirectional",
    "differences",
    "stem",
    "stem_channels",
    "stem_strides",
    "pooling",
    "hidden_size",
)
_SAME_TRAINS = ("in_modes", "hidden_modes")


@torch.no_grad()
def rounded(model: VideoClassifier, config: ModelConfig) -> tuple[VideoClassifier, dict[str, float]]:
    """A model of another configuration, with matrices as near to those of `model` as they can be.

    Higher ranks than those of the model add nothing at first, and can be learnt. A dense matrix may become a tensor
    train, and the other way round. Dropout, normalisation (mean and std) and sampling are those of `config`: for the
    same function, keep those of the model.

    Examples:
        >>> model = VideoClassifier(ModelConfig(width=8, height=8, classes=("walking", "diving"), ranks="4"))
        >>> small, errors = rounded(model, dataclasses.replace(model.config, ranks="2"))
        >>> small.num_params < model.num_params, list(errors)
        (True, ['ih_l0', 'hh_l0'])

    Args:
        model: Not changed.
        config: Has the same classes, frame, cell, layers and hidden size, and between tensor trains the same modes.

    Returns:
        The new model, with the dtype, device and mode (train or eval) of the old one, and for each matrix (ih_l0 is the
        input matrix of the first layer, hh_l0 the recurrent one) ||W - W'|| / ||W||, Frobenius.

    Raises:
        ValueError: other settings differ; the message names them.
    """
    _check(model.config, config)
    weight = model.head.weight
    result = VideoClassifier(config).to(weight.device, weight.dtype).train(model.training)
    old, new = model.state_dict(), result.state_dict()
    kept = {name for name in new.keys() & old.keys() if not {"cores", "factors"} & set(name.split("."))}
    result.load_state_dict({name: old[name] for name in kept}, strict=False)
    errors = {}
    for name, layer in result.rnn.named_children():
        errors[name] = layer.approximate_(getattr(model.rnn, name, None) or getattr(model.rnn, f"weight_{name}"))
    for name, parameter in result.rnn.named_parameters(recurse=False):
        if name.startswith("weight_hh_"):
            parameter.copy_(model.rnn.weight_hh(name.removeprefix("weight_hh_")))
            errors[name.removeprefix("weight_")] = 0.0
    return result, errors


def _check(old: ModelConfig, new: ModelConfig) -> None:
    names = _SAME + (_SAME_TRAINS if old.input == new.input == "tt" else ())
    different = [name for name in names if getattr(old, name) != getattr(new, name)]
    if different:
        listed = ", ".join(f"{name} {getattr(old, name)}, not {getattr(new, name)}" for name in different)
        raise ValueError(f"the model has {listed}; only its ranks can be changed")
