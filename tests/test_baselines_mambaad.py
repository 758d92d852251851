"""MambaAD: the curve, network, loss, training step and counts, each against what its authors wrote."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omniad.config import ModelSettings, TrainingSettings, load_settings, run_settings
from omniad.models import build_model
from omniad.models.baselines.hilbert import hilbert_order
from omniad.models.baselines.mambaad import HSSBlock, LSSModule
from omniad.models.complexity import complexity
from omniad.training.loop import train_step

FULL = ModelSettings(method="mambaad", depths=[3, 4, 6, 3])
SMALL = ModelSettings(method="mambaad", encoder="resnet18", encoder_width=8, depths=[1, 1, 1, 1])


def curve(side: int) -> list[int]:
    """The Hilbert curve as every textbook converts a distance along it into x and y; places are x + side y."""
    order = []
    for distance in range(side * side):
        x = y = 0
        rest, size = distance, 1
        while size < side:
            right, up = 1 & (rest // 2), 1 & (rest ^ (rest // 2))
            if not up:
                if right:
                    x, y = size - 1 - x, size - 1 - y
                x, y = y, x
            x, y, rest, size = x + size * right, y + size * up, rest // 4, 2 * size
        order.append(y * side + x)
    return order


def test_the_curve_is_that_of_the_authors_library():
    """What numpy-hilbert-curve 1.0.1 decodes, as x + side y; the textbook's is the same and tells the larger ones."""
    assert hilbert_order(2, 2).tolist() == [0, 2, 3, 1]
    assert hilbert_order(4, 4).tolist() == [0, 1, 5, 4, 8, 12, 13, 9, 10, 14, 15, 11, 7, 6, 2, 3]
    assert all(hilbert_order(side, side).tolist() == curve(side) for side in (2, 4, 8, 64))


class LiteralHSS(nn.Module):
    """An HSS block as the authors' code writes it, one direction after the other, one step after the other."""

    def __init__(self, d: int):
        super().__init__()
        rank, inner = math.ceil(d / 16), 2 * d
        self.norm, self.out_norm = nn.LayerNorm(d), nn.LayerNorm(inner)
        self.in_proj, self.out_proj = nn.Linear(d, 2 * inner, bias=False), nn.Linear(inner, d, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj = nn.Parameter(torch.empty(8, rank + 32, inner))
        self.dt_weight, self.dt_bias = nn.Parameter(torch.empty(8, inner, rank)), nn.Parameter(torch.empty(8, inner))
        self.a_logs, self.ds = nn.Parameter(torch.empty(8 * inner, 16)), nn.Parameter(torch.empty(8 * inner))

    def forward(self, x):  # (B, H, W, D)
        inner, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        u = F.silu(self.conv(inner.permute(0, 3, 1, 2)))
        side, turned = u.shape[2], u.rot90(1, (2, 3))
        order = curve(side)
        grids = [u, u.transpose(2, 3), turned, turned.transpose(2, 3)]
        sequences = [grid.flatten(2)[..., order] for grid in grids]
        scanned = [self.scan(k, s) for k, s in enumerate(sequences + [s.flip(-1) for s in sequences])]
        total = torch.zeros_like(u)
        for k, y in enumerate(scanned):
            placed = torch.zeros_like(y)
            placed[..., order] = y if k < 4 else y.flip(-1)
            grid = placed.view_as(u)
            grid = grid.transpose(2, 3) if k % 2 else grid
            total = total + (grid.rot90(3, (2, 3)) if k % 4 > 1 else grid)
        return x + self.out_proj(self.out_norm(total.permute(0, 2, 3, 1)) * F.silu(gate))

    def scan(self, k: int, u):  # (B, D, L)
        rank, d = self.dt_weight.shape[2], u.shape[1]
        step, b, c = torch.einsum("bdl,cd->bcl", u, self.x_proj[k]).split([rank, 16, 16], dim=1)
        step = F.softplus(torch.einsum("brl,dr->bdl", step, self.dt_weight[k]) + self.dt_bias[k][:, None])
        a = -torch.exp(self.a_logs.view(8, d, 16)[k])
        state, outputs = torch.zeros(len(u), d, 16, dtype=u.dtype), []
        for t in range(u.shape[-1]):
            state = torch.exp(step[..., t, None] * a) * state + (step[..., t] * u[..., t])[..., None] * b[:, None, :, t]
            outputs.append((state * c[:, None, :, t]).sum(-1) + self.ds.view(8, d)[k] * u[..., t])
        return torch.stack(outputs, dim=-1)

    def pairs(self, mine: HSSBlock) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            *((self.x_proj, mine.parameters_of_steps), (self.dt_weight, mine.step_weight)),
            *((self.dt_bias, mine.step_bias), (self.a_logs, mine.log_decay.flatten(0, 1)), (self.ds, mine.skip)),
            *((self.in_proj.weight, mine.inputs.weight), (self.out_proj.weight, mine.output.weight)),
            *pairs_of((self.norm, mine.norm), (self.out_norm, mine.out_norm), (self.conv, mine.conv)),
        ]


class LiteralLSS(nn.Module):
    """HSS blocks in series, and convolutions whose InstanceNorms have no weights."""

    def __init__(self, d: int, blocks: int):
        super().__init__()
        self.blocks = nn.ModuleList(LiteralHSS(d) for _ in range(blocks))
        self.before, self.after = (nn.ModuleList(nn.Conv2d(d, d, 1) for _ in range(2)) for _ in range(2))
        self.depthwise = nn.ModuleList(nn.Conv2d(d, d, k, padding=k // 2, bias=False, groups=d) for k in (5, 7))
        self.final = nn.Conv2d(3 * d, d, 1)

    def forward(self, x):  # (B, H, W, D)
        scanned = x
        for block in self.blocks:
            scanned = block(scanned)
        parts = [scanned.permute(0, 3, 1, 2)]
        for convolutions in zip(self.before, self.depthwise, self.after, strict=True):
            y = x.permute(0, 3, 1, 2)
            for convolution in convolutions:
                y = F.silu(nn.InstanceNorm2d(y.shape[1])(convolution(y)))
            parts.append(y)
        return self.final(torch.cat(parts, dim=1)).permute(0, 2, 3, 1) + x

    def pairs(self, mine: LSSModule) -> list[tuple[torch.Tensor, torch.Tensor]]:
        branches: Any = (mine.local5, mine.local7)
        convolutions = [(self.final, mine.reduce)]
        for k, branch in enumerate(branches):
            convolutions += [(self.before[k], branch[0]), (self.depthwise[k], branch[3]), (self.after[k], branch[6])]
        blocks: Any = zip(self.blocks, mine.global_branch, strict=True)
        return [pair for literal, block in blocks for pair in literal.pairs(block)] + pairs_of(*convolutions)


class LiteralDecoder(nn.Module):
    """The four stages; widths 8C ... C."""

    def __init__(self, widths: list[int], depths: list[int]):
        super().__init__()
        self.expands = nn.ModuleList(nn.Linear(2 * d, 4 * d, bias=False) for d in widths[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(d) for d in widths[1:])
        sizes = [3 if depth % 3 == 0 else 2 for depth in depths]
        self.stages: Any = nn.ModuleList(
            nn.ModuleList(LiteralLSS(d, size) for _ in range(depth // size))
            for d, depth, size in zip(widths, depths, sizes, strict=True)
        )

    def forward(self, x):  # (B, C, H, W)
        x, outputs = x.permute(0, 2, 3, 1), []
        for k, modules in enumerate(self.stages):
            if k:
                b, h, w, c = x.shape
                x = self.expands[k - 1](x).view(b, h, w, 2, 2, c // 2).permute(0, 1, 3, 2, 4, 5)
                x = self.norms[k - 1](x.reshape(b, 2 * h, 2 * w, c // 2))
            for module in modules:
                x = module(x)
            outputs.insert(0, x.permute(0, 3, 1, 2))
        return outputs[:3]

    def pairs(self, decoder: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = []
        for k, (modules, mine) in enumerate(zip(self.stages, decoder, strict=True)):
            for literal, module in zip(modules, list(mine)[1:], strict=True):
                found += literal.pairs(module)
            if k:
                found += pairs_of((self.expands[k - 1], mine[0].linear), (self.norms[k - 1], mine[0].norm))
        return found


def pairs_of(*modules: tuple[nn.Module, nn.Module]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and biases of modules that are alike, each beside the other's."""
    return [pair for a, b in modules for pair in zip(a.parameters(), b.parameters(), strict=True)]


def twins() -> tuple[Any, LiteralDecoder, list[torch.Tensor]]:
    """A small MambaAD without drop path, the literal decoder with its weights, and features; double."""
    torch.manual_seed(0)
    depths = [3, 2, 2, 2]
    model: Any = build_model(SMALL.model_copy(update={"depths": depths})).double().eval()
    literal = LiteralDecoder([64, 32, 16, 8], depths).double()
    assert sum(a.numel() for a, _ in literal.pairs(model.decoder)) == sum(p.numel() for p in model.decoder.parameters())
    with torch.no_grad():
        for a, b in literal.pairs(model.decoder):
            a.copy_(b + 0.1 * torch.randn_like(b))  # biases and skips that differ from their start
            b.copy_(a)
    return model, literal, [torch.randn(2, c, s, s).double() for c, s in [(8, 16), (16, 8), (32, 4)]]


def test_reconstruction_loss_map_and_score_are_the_authors():
    model, literal, features = twins()
    with torch.no_grad():
        expected = literal(model.neck(features))
        torch.testing.assert_close(model.reconstruct(features), expected)
        loss = 5 * sum(((a - b) ** 2).mean() for a, b in zip(features, expected, strict=True))
        torch.testing.assert_close(model.loss(features, TrainingSettings(), 0.0), loss)
        distances = [1 - torch.cosine_similarity(a, b)[:, None] for a, b in zip(features, expected, strict=True)]
        resize = nn.Upsample(size=(64, 64), mode="bilinear", align_corners=True)
        maps = sum(resize(distance)[:, 0] for distance in distances)
        found = model.anomaly_maps(features, 64)
    ratio = maps / found  # a constant factor changes no metric
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0)
    assert torch.equal(model.image_scores(found), found.amax(dim=(1, 2)))


def test_a_step_is_the_authors():
    """AdamW at 0.005, no decay on what is one-dimensional (the skips, too), gradients clipped at norm 5."""
    model, literal, features = twins()
    run = run_settings(load_settings(), "mvtec", "mambaad")
    neck = copy.deepcopy(model.neck)
    train_step(model, features, model.make_optimizers(run.training), run.training, 0.0)

    parameters = [*neck.parameters(), *literal.parameters()]
    flat, deep = ([p for p in parameters if (p.ndim == 1) == one] for one in (True, False))
    optimizer = torch.optim.AdamW([{"params": flat, "weight_decay": 0.0}, {"params": deep}], 0.005, weight_decay=1e-4)
    loss: Any = sum(5 * ((a - b) ** 2).mean() for a, b in zip(features, literal(neck(features)), strict=True))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()
    for found, expected in literal.pairs(model.decoder):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_initial_distributions():
    torch.manual_seed(0)
    model: Any = build_model(FULL)
    module = model.decoder[1][1]  # D = 256
    block = module.global_branch[0]
    for linear in (block.inputs, block.output, model.decoder[1][0].linear):
        assert linear.bias is None
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for convolution, fan_out in [(module.local5[0], 256), (module.local5[3], 25), (module.local7[3], 49)]:
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert convolution.bias is None or not convolution.bias.any()
    assert block.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.03)
    assert module.reduce.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.03)
    bound = 512**-0.5
    assert 0.99 * bound < block.parameters_of_steps.abs().max() <= bound
    assert 0.99 * 0.25 < block.step_weight.abs().max() <= 0.25  # rank 16
    steps = F.softplus(block.step_bias).log10()  # uniform in [-3, -1]
    assert (steps.min().item(), steps.max().item()) == pytest.approx((-3, -1), abs=0.01)
    assert steps.std().item() == pytest.approx(2 / 12**0.5, rel=0.03)
    assert torch.equal(block.log_decay[3, 7].exp().round(), torch.arange(1.0, 17.0))
    assert (block.skip == 1).all()


def test_drop_path_falls_from_block_to_block_and_is_one_in_a_module():
    """linspace(0.2, 0, 16) has a rate a block; the modules take the first ones of their stage."""
    with torch.device("meta"):
        model: Any = build_model(FULL)
    rates = [
        [{block.drop_path.p for block in part.global_branch} for part in list(stage)[1:]] for stage in model.decoder
    ]
    expected = [[0], [3, 4], [7, 8], [13]]  # places among the 16 blocks
    for found, places in zip(rates, expected, strict=True):
        assert [rate for (rate,) in found] == pytest.approx([0.2 * (15 - place) / 15 for place in places])


def test_counts_are_the_published_ones():
    """25,615,232 weights and 39,296 scan indices: 25.7 M; 8.3 G, the scan not counted.

    fvcore finds 6.77 G in the authors' code, where it misses the projections of the scans' steps.
    """
    parameters, macs = complexity(FULL)
    assert (parameters, round(parameters / 1e6, 1)) == (25_615_232 + 39_296, 25.7)
    assert round(macs / 1e9, 1) == 8.3
    stages = [(512, 64, 3), (256, 256, 4), (128, 1024, 6), (64, 4096, 3)]  # D, positions, blocks
    projections = sum(n * 8 * length * 2 * d * (2 * d // 16 + 32) for d, length, n in stages)
    assert (macs - projections) / 1e9 == pytest.approx(6.77, abs=0.01)


def test_trainable_parameters():
    def hss(d: int) -> int:
        inner, rank = 2 * d, d // 16
        scan = 8 * (inner * (rank + 32) + inner * rank + inner + 16 * inner + inner)
        return 2 * d + d * 2 * inner + 10 * inner + scan + 2 * inner + inner * d

    def lss(d: int) -> int:
        branches = sum(2 * (d * d + d) + k * k * d for k in (5, 7))
        return branches + 3 * d * d + d

    stages = [(512, 3, 1), (256, 4, 2), (128, 6, 2), (64, 3, 1)]  # D, HSS blocks, modules of them
    decoder = sum(blocks * hss(d) + modules * lss(d) for d, blocks, modules in stages)
    expands = sum(2 * d * d + d for d in (512, 256, 128))
    neck = 1_458_304  # Omni-AD's
    with torch.device("meta"):
        model = build_model(FULL)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == neck + decoder + expands
    assert sum(p.numel() for p in model.parameters()) == 25_615_232
