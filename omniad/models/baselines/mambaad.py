"""MambaAD: Omni-AD's encoder and neck with a decoder of state space models that scan along Hilbert curves.

Source: He et al., "MambaAD: Exploring State Space Models for Multi-class Unsupervised Anomaly Detection", NeurIPS 2024;
lewandofskee/MambaAD.

Different here: Real-IAD is trained for 100 epochs (1000 in the authors' configuration). Grids whose sides are no powers
of two are scanned in the order of the next larger curve, and a stage whose depth neither 3 nor 2 divides has modules of
one block; the authors' code has neither. How the scan is computed: `selective_scan.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.anomaly_map import cosine_maps
from omniad.models.any_encoder import make_encoder
from omniad.models.baselines.hilbert import hilbert_order
from omniad.models.baselines.selective_scan import scan_in_orders
from omniad.models.decoder import PatchExpand, restoration, stage_widths
from omniad.models.method import Method
from omniad.models.neck import Neck
from omniad.models.omniad import reconstruction_loss

EXPANSION = 2  # inner width of an HSS block in its outer
STATES = 16  # N
DIRECTIONS = 8
DROP_PATH = 0.2  # of the first stage's first module; falls linearly from block to block
LOSS_WEIGHT = 5.0
SIDES = (8, 16, 32, 64)  # of the stages' grids at 256 pixels


class MambaAD(Method):
    """Frozen encoder, neck, and a decoder of locality-enhanced state space modules."""

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = make_encoder(settings.encoder, settings.encoder_width)
        channels = self.encoder.channels[-3:]
        widths = stage_widths(settings, channels)
        self.neck = Neck(channels, inner=2 * channels[2] // 4, width=widths[0])
        rates = torch.linspace(DROP_PATH, 0, sum(settings.depths), device="cpu").tolist()
        self.decoder = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, settings.depths, strict=True)):
            expand = PatchExpand(widths[stage - 1], width) if stage else nn.Identity()
            drops, rates = rates[:depth], rates[depth:]
            self.decoder.append(nn.Sequential(expand, *_modules(width, drops)))
        self.decoder.apply(_initialise)
        self.restore = restoration(widths, channels)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images (B, 3, H, W) -> features, reconstructions; finest first."""
        features = self.encode(images)
        return features, self.reconstruct(features)

    def reconstruct(self, features: list[Tensor]) -> list[Tensor]:
        """Features, finest first -> reconstructions of the same shapes."""
        x = self.neck(features)  # (B, widths[0], H/32, W/32)
        outputs = []
        for stage in self.decoder:
            x = stage(x)
            outputs.append(x)
        return self.restore(outputs[:0:-1])

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps at 1/4, 1/8, 1/16."""
        return self.encoder(images)[-3:]

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """Five times the mean squared errors of the three scales."""
        return LOSS_WEIGHT * reconstruction_loss(features, self.reconstruct(features))

    def never_run(self) -> Sequence[nn.Module]:
        """Each HSS block's scan order and its inverse, which the authors' code registers as parameters: 39,296."""
        lengths = [side**2 for side, depth in zip(SIDES, self.settings.depths, strict=True) for _ in range(depth)]
        return [nn.ParameterList(nn.Parameter(torch.empty(2, length)) for length in lengths)]

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Cosine distances at three scales, as Omni-AD's: (B, size, size)."""
        return cosine_maps(features, self.reconstruct(features), size)


def _modules(width: int, drops: list[float]) -> list[LSSModule]:
    """A stage's `len(drops)` HSS blocks in modules of three, or of two where three do not divide their number.

    Module j takes the rate of the stage's block j for all of its blocks, as the authors' code does.
    """
    size = 3 if len(drops) % 3 == 0 else 2 if len(drops) % 2 == 0 else 1
    return [LSSModule(width, size, drop) for drop in drops[: len(drops) // size]]


class LSSModule(nn.Module):
    """HSS blocks in series beside two depthwise convolution branches; concatenated, reduced, added to the input."""

    def __init__(self, width: int, blocks: int, drop: float):
        super().__init__()
        self.global_branch = nn.Sequential(*(HSSBlock(width, drop) for _ in range(blocks)))
        self.local5, self.local7 = _local_branch(width, 5), _local_branch(width, 7)
        self.reduce = nn.Conv2d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        tokens = self.global_branch(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.reduce(torch.cat([tokens, self.local5(x), self.local7(x)], dim=1))


def _local_branch(width: int, kernel: int) -> nn.Sequential:
    """1x1, depthwise, 1x1 convolutions, each with InstanceNorm and SiLU."""
    first, last = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
    depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
    parts = [(conv, nn.InstanceNorm2d(width), nn.SiLU()) for conv in (first, depthwise, last)]
    return nn.Sequential(*(part for group in parts for part in group))


class HSSBlock(nn.Module):
    """x + DropPath(HSS(LayerNorm(x))): a gated selective scan in eight directions along a Hilbert curve."""

    def __init__(self, width: int, drop: float):
        super().__init__()
        inner, self.rank = EXPANSION * width, math.ceil(width / 16)
        self.norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.parameters_of_steps = nn.Parameter(torch.empty(DIRECTIONS, self.rank + 2 * STATES, inner))
        self.step_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, self.rank))
        self.step_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        decays = torch.arange(1, STATES + 1, dtype=torch.float32).log()
        self.log_decay = nn.Parameter(decays.expand(DIRECTIONS, inner, STATES).clone())  # A = -exp(.)
        self.skip = nn.Parameter(torch.ones(DIRECTIONS * inner))  # one-dimensional, so it does not decay
        self.out_norm = nn.LayerNorm(inner)
        self.output = nn.Linear(inner, width, bias=False)
        self.drop_path = StochasticDepth(drop, "row")
        self._draw_step_parameters(inner)

    def _draw_step_parameters(self, inner: int) -> None:
        """As Mamba: projections uniform, the step's bias such that softplus gives steps log-uniform in [0.001, 0.1]."""
        nn.init.uniform_(self.parameters_of_steps, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.step_weight, -(self.rank**-0.5), self.rank**-0.5)
        low, high = math.log(0.001), math.log(0.1)
        with torch.no_grad():
            steps = (torch.rand_like(self.step_bias) * (high - low) + low).exp()
            self.step_bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        inner, gate = self.inputs(self.norm(x)).chunk(2, dim=-1)  # (B, h, w, 2D) each
        inner = F.silu(self.conv(inner.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        scanned = self.out_norm(self._scan(inner))
        return x + self.drop_path(self.output(scanned * F.silu(gate)))

    def _scan(self, x: Tensor) -> Tensor:
        """The sum of the scans in all directions, (B, h, w, D) -> (B, h, w, D).

        Steps, B and C belong to a position, whatever the order: they are computed before anything is put in order.
        """
        tokens = x.flatten(1, 2)  # (B, L, D)
        projected = F.linear(tokens, self.parameters_of_steps.flatten(0, 1)).unflatten(2, (DIRECTIONS, -1))
        step, bc = projected.split([self.rank, 2 * STATES], dim=3)  # (B, L, K, .)
        delta = torch.matmul(step.permute(2, 0, 1, 3).flatten(1, 2), self.step_weight.transpose(1, 2))
        delta = delta.unflatten(1, tokens.shape[:2])  # (K, B, L, D)
        orders = _orders_on(x.device, x.shape[1], x.shape[2])
        y = scan_in_orders(tokens, delta, self.step_bias, -self.log_decay.exp(), bc, orders)
        return (y + self.skip.view(DIRECTIONS, -1).sum(0) * tokens).view_as(x)


def _orders_on(device: torch.device, height: int, width: int) -> Tensor:
    """`scan_orders` on a device; a GPU's are kept there, because a step that copied them would wait for the copy."""
    return _orders_on_gpu(device, height, width) if device.type == "cuda" else scan_orders(height, width).to(device)


@lru_cache(maxsize=16)
def _orders_on_gpu(device: torch.device, height: int, width: int) -> Tensor:
    with torch.inference_mode(False):  # training may come after an evaluation
        return scan_orders(height, width).to(device)


def scan_orders(height: int, width: int) -> Tensor:
    """(8, h w): the Hilbert curve on the grid, on its transpose, on both turned by 90 degrees; then each backwards.

    A square's curve backwards is its mirror image, so on squares two of the eight are there twice.
    """
    places = torch.arange(height * width, device="cpu").view(height, width)
    orders = []
    for grid in (places, places.T, places.rot90(), places.rot90().T):
        orders.append(grid.flatten()[hilbert_order(*grid.shape)])
    return torch.stack([*orders, *(order.flip(0) for order in orders)])


def state_updates(settings: ModelSettings, image_size: int) -> int:
    """Steps of single states that the decoder's scans take for one image: its cost that published counts leave out."""
    with torch.device("meta"):
        decoder = MambaAD(settings).decoder
    updates = 0
    for number, stage in enumerate(decoder):
        positions = (image_size // 32 << number) ** 2
        updates += sum(b.log_decay.numel() * positions for b in stage.modules() if isinstance(b, HSSBlock))
    return updates


def _initialise(module: nn.Module) -> None:
    """Linear layers truncated-normal, convolutions normal with the variance 2 / fan-out of each group."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
