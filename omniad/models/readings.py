"""The two readings of the method, and every difference between them in the model.

`equations` is the paper's equations 1-5; where they are silent it does what the released code does. `released` is what
the authors' code computes (easyoo/Omni-AD, commit d85c5f4). All parts are shared; they branch on the fields below and
on nothing else. What differs beside the model (epochs, encoder weights) is in `config/runs.yaml`. More on both:
`docs/paper-vs-code.md`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """The choices in which the two readings differ."""

    trained_output: bool
    """Eq. 1's W^O is one trained layer; else a random two-layer projection, redrawn in every forward pass."""

    attention_bias: bool
    """A learned bias per head and learnable token is added after the softmax; it starts at zero."""

    input_residual: bool
    """Y2 = F2 + Y1 + X; else Y2 = F2 + Y1."""

    token_std: float
    """Learnable tokens start truncated-normal with this deviation; 0 starts all of them at zero."""


READINGS = {
    "equations": Reading(trained_output=True, attention_bias=False, input_residual=False, token_std=0.02),
    "released": Reading(trained_output=False, attention_bias=True, input_residual=True, token_std=0.0),
}
