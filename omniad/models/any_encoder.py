"""An encoder by name, of any family."""

from __future__ import annotations

from omniad.models.efficientnet import EFFICIENTNETS, EfficientNetEncoder
from omniad.models.efficientnet_lite import LITES, EfficientNetLite
from omniad.models.encoder import Encoder, FrozenEncoder


def make_encoder(name: str, width: int) -> FrozenEncoder:
    """The encoder of this name at a width (64 is full size): a ResNet, an EfficientNet or an EfficientNet-Lite."""
    if name in EFFICIENTNETS:
        return EfficientNetEncoder(name, width)
    return EfficientNetLite(name, width) if name in LITES else Encoder(name, width)
