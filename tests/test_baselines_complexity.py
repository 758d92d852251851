"""The other methods' multiply-adds against fvcore itself, at reduced size."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from omniad.config import ModelSettings
from omniad.models import build_model
from omniad.models.complexity import complexity

SMALL = {
    "rd4ad": {"encoder": "wide_resnet50_2", "encoder_width": 8},
    "uniad": {"encoder": "tf_efficientnet_b4", "encoder_width": 16},
    "simplenet": {"encoder": "wide_resnet50_2", "encoder_width": 8},
    "destseg": {"encoder": "resnet18", "encoder_width": 8},
    "rlr": {"encoder": "tf_efficientnet_b6", "encoder_width": 8},
    "mambaad": {"encoder": "resnet18", "encoder_width": 8, "depths": [1, 1, 2, 1]},
    "diad": {"encoder": "resnet50", "encoder_width": 8},
    "dinomaly": {"encoder": "dinov2_vitb14_reg", "encoder_width": 8, "jitter": 0.2},
}
SIDES = {"mambaad": 64}  # others 128: a trace walks every step of the scan
# DiAD's layers for the first six skips of the guiding network run, but their outputs reach nothing: a trace drops them.
DROPPED = {"diad": 3 * 40**2 * 16**2 + 40**2 * 8**2 + 2 * 80**2 * 8**2}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")  # fvcore's
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sides of images are plain numbers in our code
@pytest.mark.parametrize("method", SMALL)
def test_agrees_with_fvcore(method):
    from fvcore.nn import FlopCountAnalysis  # here, because the import warns too
    from fvcore.nn.jit_handles import get_shape

    def fused_attention(inputs, outputs):
        shapes: Any = [get_shape(tensor) for tensor in inputs[:2]]
        (b, h, n, d), (_, _, s, _) = shapes
        return 2 * b * h * n * s * d

    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    settings = ModelSettings.model_validate({"method": method, **SMALL[method]})
    model = build_model(settings).eval()
    side = SIDES.get(method, 128)
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, side, side))
    analysis.set_op_handle("aten::scaled_dot_product_attention", fused_attention)
    with torch.no_grad():
        counted = analysis.total()
    assert complexity(settings, side)[1] == counted + DROPPED.get(method, 0)
