"""The settings of Neuroformer."""

from __future__ import annotations

from dataclasses import dataclass

from spiketok.errors import UsageError
from spiketok.models.base import check_range

FRAMES = "frames"  # of an input, and of what is contrasted


@dataclass(frozen=True)
class NeuroformerConfig:
    """The defaults are the reference's V1AL configuration without frames.

    Args:
        dim: D. heads. state_layers: blocks over the current window, before and after the cross-attention.
        history_layers, frame_layers, behaviour_layers: blocks of cross-attention; frames have as many of their own.
        step_ms: a step of dt. history_ms: how far back a window sees spikes.
        max_current, max_history: tokens of each stream at most.
        frames: read the session's stimulus. frame_ms: how far back from the window's end. frame_hz, frame_size: frames
            a second, and their height and width. frame_kernel, frame_stride: of the convolution, in frames and pixels.
        behaviours: names of signals that the model reads. It cannot be asked for them.
        contrastive: pull what is encoded of a window's spikes, frames and behaviours together.
        contrast: what is compared: id, frames and names of behaviours. temperature: of its cosines.
        dropout: of attention weights, branches and codes. init_std: of all weights.
        reference_quirks: compute as the reference where it differs (see above).
    """

    dim: int = 256
    heads: int = 8
    state_layers: int = 6
    history_layers: int = 6
    frame_layers: int = 6
    behaviour_layers: int = 4
    step_ms: float = 10.0
    history_ms: float = 150.0
    max_current: int = 100
    max_history: int = 100
    frames: bool = False
    frame_ms: float = 200.0
    frame_hz: float = 20.0
    frame_size: tuple[int, ...] = (32, 32)
    frame_kernel: tuple[int, ...] = (3, 8, 8)
    frame_stride: tuple[int, ...] = (3, 4, 4)
    behaviours: tuple[str, ...] = ()
    contrastive: bool = False
    contrast: tuple[str, ...] = ("id", FRAMES)
    temperature: float = 0.5
    dropout: float = 0.2
    init_std: float = 0.02
    reference_quirks: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "dim", "heads", "state_layers", "history_layers")
        check_range(self, "[0, inf)", "frame_layers", "behaviour_layers", "init_std")
        check_range(self, "(0, inf)", "step_ms", "history_ms", "frame_ms", "frame_hz", "temperature")
        check_range(self, "[3, inf)", "max_current", "max_history")
        check_range(self, "[0, 1)", "dropout")
        if self.dim % (2 * self.heads):
            message = f"model.dim is {self.dim}, must be a multiple of twice model.heads, {2 * self.heads}"
            raise UsageError(message)
        for name, n in (("frame_size", 2), ("frame_kernel", 3), ("frame_stride", 3)):
            value = getattr(self, name)
            if len(value) != n or min(value) < 1:
                message = f"model.{name} is {value}, must be {n} whole numbers of at least 1"
                raise UsageError(message)
        known = ("id", *([FRAMES] if self.frames else []), *self.behaviours)
        lacking = [name for name in self.contrast if name not in known]
        if self.contrastive and (lacking or len(self.contrast) < 2):
            message = f"model.contrast is {', '.join(self.contrast)}: two or more of {', '.join(known)} can be compared"
            raise UsageError(message)
