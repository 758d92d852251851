"""An encoder by name, of any family."""

from __future__ import annotations

from omniad.models.dinov2 import DINOV2, DinoV2
from omniad.models.efficientnet import EFFICIENTNETS, EfficientNetEncoder
from omniad.models.efficientnet_lite import LITES, EfficientNetLite
from omniad.models.encoder import Encoder, FrozenEncoder


def make_encoder(name: str, width: int) -> FrozenEncoder:
    """The encoder of this name at a width (64 is full size): ResNet, EfficientNet, EfficientNet-Lite or DINOv2."""
    if name in DINOV2:
        return DinoV2(name, width)
    if name in EFFICIENTNETS:
        return EfficientNetEncoder(name, width)
    return EfficientNetLite(name, width) if name in LITES else Encoder(name, width)
