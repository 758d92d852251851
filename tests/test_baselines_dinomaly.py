"""Dinomaly, its optimizer and DINOv2's transformer against literal formulas and published counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from omniad.config import ModelSettings
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.baselines.dinomaly import (
    Bottleneck,
    Dinomaly,
    blur,
    linear_attention,
    scale_learned_gradients,
    seen,
)
from omniad.models.baselines.stable_adamw import StableAdamW
from omniad.models.complexity import complexity
from omniad.models.dinov2 import DinoV2
from omniad.models.encoder import load_weights

FULL = ModelSettings(method="dinomaly", encoder="dinov2_vitb14_reg", jitter=0.2)
SMALL = FULL.model_copy(update={"encoder_width": 8})


@pytest.fixture(scope="module")
def small() -> Dinomaly:
    torch.manual_seed(0)
    model = build_model(SMALL).eval()
    assert isinstance(model, Dinomaly)
    return model


def test_counts():
    """Trained parameters; with the whole published file the paper's 148.0 M, and its 104.7 G up to the attention."""
    with torch.device("meta"):
        model = build_model(FULL)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 61_425_408
    parameters, macs = complexity(FULL, 256)
    assert parameters == 86_583_552 + 61_425_408
    attention = (
        10 * 2 * 789**2 * 768
    )  # products of the encoder's blocks; fvcore counts them, the paper's counter did not
    linear = 8 * 2 * 789 * 768 * 64
    assert (macs - attention - linear) / 1e9 == pytest.approx(104.7, rel=0.005)


def test_linear_attention_is_a_weighted_mean():
    q, k, v = (torch.randn(1, 2, 5, 3) for _ in range(3))
    found = linear_attention(q, k, v)
    for head in range(2):
        for i in range(5):
            weights = [
                sum(
                    (a + 1 if a > 0 else math.exp(a)) * (b + 1 if b > 0 else math.exp(b))
                    for a, b in zip(q[0, head, i].tolist(), k[0, head, j].tolist(), strict=True)
                )
                for j in range(5)
            ]
            mean = sum(w * v[0, head, j] for j, w in enumerate(weights)) / sum(weights)
            torch.testing.assert_close(found[0, head, i], mean, rtol=1e-4, atol=1e-5)


def test_learned_points_keep_a_tenth_of_their_gradient():
    torch.manual_seed(0)
    target, output = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5, requires_grad=True)
    passed = scale_learned_gradients(target, output, 0.89)
    torch.testing.assert_close(passed, output)
    weights = torch.randn_like(output)
    (passed * weights).sum().backward()
    distance = 1 - F.cosine_similarity(target, output, dim=1)  # 50 points, of which the 5 worst keep theirs
    worst = {tuple(index) for index in sorted(np.ndindex(2, 5, 5), key=lambda index: -distance[index])[:5]}
    assert output.grad is not None
    for b, y, x in np.ndindex(2, 5, 5):
        factor = 1.0 if (b, y, x) in worst else 0.1
        torch.testing.assert_close(output.grad[b, :, y, x], factor * weights[b, :, y, x])


def test_loss_is_one_cosine_an_image_and_group(small, monkeypatch):
    features = [torch.randn(2, 5 + 9, 96) for _ in range(2)]
    outputs = [torch.randn(2, 96, 3, 3) for _ in range(2)]
    monkeypatch.setattr(small, "reconstruct", lambda _: outputs)
    total = 0.0
    for group, output in zip(features, outputs, strict=True):
        for image in range(2):
            a = group[image, 5:].T.flatten().double().numpy()
            b = output[image].flatten().double().numpy()
            total += 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    for progress in (0.0, 0.05, 0.5):  # mining changes gradients alone
        assert small.loss(features, None, progress).item() == pytest.approx(total / 4, rel=1e-4)


def test_the_decoder_mirrors_the_encoder(small):
    """Each decoder block adds a number: the earlier group gets what all eight gave, the later one that of four."""
    features = [torch.randn(1, 5 + 4, 96) for _ in range(2)]
    with torch.no_grad():
        x = small.bottleneck((features[0] + features[1]) / 2)
        outputs = []
        for block in small.decoder:
            x = block(x)
            outputs.append(x)
        found = small.reconstruct(features)
    for map_, blocks in zip(found, (outputs[4:], outputs[:4]), strict=True):
        tokens = torch.stack(blocks).mean(dim=0)
        torch.testing.assert_close(map_[0, :, 1, 0], tokens[0, 5 + 2], rtol=1e-4, atol=1e-5)


def test_the_bottleneck_drops_before_inside_and_behind():
    torch.manual_seed(0)
    bottleneck = Bottleneck(8, 0.5).train()
    x = torch.randn(1, 3, 8)
    torch.manual_seed(1)
    found = bottleneck(x)
    torch.manual_seed(1)
    hidden = F.gelu(bottleneck.mlp.fc1(F.dropout(x, 0.5)))
    torch.testing.assert_close(found, F.dropout(bottleneck.mlp.fc2(F.dropout(hidden, 0.5)), 0.5))


def test_stable_adamw_is_its_formula():
    """Two tensors, of which one has a gradient that grows and is cut."""
    torch.manual_seed(0)
    starts = [torch.randn(3, 4), torch.randn(5)]
    parameters = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = StableAdamW(parameters, lr=0.01, weight_decay=0.1)
    x = [start.double().numpy().copy() for start in starts]
    m, v, largest = ([np.zeros_like(each) for each in x] for _ in range(3))
    cut = 0
    for step in range(1, 5):
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.randn_like(parameter) * (10.0**step if i else 1.0)
        gradients = [parameter.grad.double().numpy() for parameter in parameters if parameter.grad is not None]
        optimizer.step()
        for i, g in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            largest[i] = np.maximum(largest[i], v[i])
            denominator = np.sqrt(largest[i]) / np.sqrt(1 - 0.999**step) + 1e-10
            rms = np.sqrt(np.mean((g / denominator) ** 2))
            cut += rms > 1
            rate = 0.01 / max(1.0, rms)
            x[i] = (1 - 0.01 * 0.1) * x[i] - rate * (m[i] / (1 - 0.9**step)) / denominator
            np.testing.assert_allclose(parameters[i].detach().numpy(), x[i], rtol=1e-4, atol=1e-6)
    assert 0 < cut < 8


def test_the_rate_rises_and_falls(small):
    rates = [2e-3 * small.rate_factor(step / 10_000) for step in (0, 50, 100, 5050, 10_000)]
    assert rates == pytest.approx([0, 1e-3, 2e-3, 1.1e-3, 2e-4])


def cubic(x: float, a: float = -0.75) -> float:
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize("side", [10, 28])
def test_positions_are_resized_bicubically(side):
    """Each axis by a factor of (side + 0.1) / 37 and not antialiased: four neighbours, the outermost one repeated."""
    torch.manual_seed(0)
    encoder = DinoV2("dinov2_vitb14_reg", 8)
    found = encoder.positions(side, side)
    assert torch.equal(found[:, 0], encoder.pos_embed[:, 0])
    matrix = np.zeros((side, 37))
    for i in range(side):
        place = (i + 0.5) * 37 / (side + 0.1) - 0.5
        for neighbour in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[i, min(max(neighbour, 0), 36)] += cubic(place - neighbour)
    grid = encoder.pos_embed[0, 1:].double().numpy().reshape(37, 37, -1)
    expected = np.einsum("yv,xu,vuc->yxc", matrix, matrix, grid).reshape(side * side, -1)
    np.testing.assert_allclose(found[0, 1:].numpy(), expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(encoder.positions(37, 37), encoder.pos_embed)


def published_entries(width: int) -> dict[str, torch.Tensor]:
    """As the published file has them: twelve blocks, the final norm, the mask token."""
    d = 12 * width
    entries = {"cls_token": (1, 1, d), "pos_embed": (1, 1370, d), "register_tokens": (1, 4, d), "mask_token": (1, d)}
    entries |= {"patch_embed.proj.weight": (d, 3, 14, 14), "patch_embed.proj.bias": (d,)}
    entries |= {"norm.weight": (d,), "norm.bias": (d,)}
    for n in range(12):
        linear = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
        for name, shape in linear.items():
            entries |= {f"blocks.{n}.{name}.weight": shape, f"blocks.{n}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            entries |= {f"blocks.{n}.{name}.weight": (d,), f"blocks.{n}.{name}.bias": (d,)}
        entries |= {f"blocks.{n}.ls1.gamma": (d,), f"blocks.{n}.ls2.gamma": (d,)}
    return {name: torch.randn(shape) / 10 for name, shape in entries.items()}


def test_the_published_files_entries_are_the_encoders(tmp_path):
    assert sum(value.numel() for value in published_entries(64).values()) == 86_583_552
    torch.manual_seed(0)
    entries, file = published_entries(8), tmp_path / "dinov2_vitb14_reg4_pretrain.pth"
    torch.save(entries, file)
    encoder = DinoV2("dinov2_vitb14_reg", 8)
    load_weights(encoder, file)
    assert all(torch.equal(value, entries[name]) for name, value in encoder.state_dict().items())
    assert entries.keys() - encoder.state_dict().keys() == {
        "mask_token",
        "norm.weight",
        "norm.bias",
        *(name for name in entries if name.startswith(("blocks.10.", "blocks.11."))),
    }


def test_tokens_are_those_of_a_literal_transformer():
    """torch's own attention and layer norm; registers come behind the positions, outputs before the final norm."""
    torch.manual_seed(0)
    entries = published_entries(8)
    encoder = DinoV2("dinov2_vitb14_reg", 8)
    encoder.load_state_dict(encoder.own_entries(entries))
    images = torch.randn(1, 3, 28, 42)
    found = encoder.tokens(images)
    cells = [images[0, :, 14 * y : 14 * y + 14, 14 * x : 14 * x + 14] for y in range(2) for x in range(3)]
    weight, bias = entries["patch_embed.proj.weight"], entries["patch_embed.proj.bias"]
    patches = torch.stack([(weight * cell).sum((1, 2, 3)) + bias for cell in cells])
    x = torch.cat([entries["cls_token"][0], patches]) + encoder.positions(2, 3)[0]
    x = torch.cat([x[:1], entries["register_tokens"][0], x[1:]])
    assert len(found) == 8
    for n in range(10):
        own = {name.removeprefix(f"blocks.{n}."): v for name, v in entries.items() if name.startswith(f"blocks.{n}.")}
        y = F.layer_norm(x, (96,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        qkv = (y @ own["attn.qkv.weight"].T + own["attn.qkv.bias"]).reshape(len(x), 3, 12, 8)
        heads = []
        for head in range(12):
            q, k, v = qkv[:, :, head].unbind(1)
            heads.append((q @ k.T / math.sqrt(8)).softmax(1) @ v)
        y = torch.cat(heads, 1) @ own["attn.proj.weight"].T + own["attn.proj.bias"]
        x = x + own["ls1.gamma"] * y
        y = F.layer_norm(x, (96,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        y = F.gelu(y @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]) @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
        x = x + own["ls2.gamma"] * y
        if n >= 2:
            torch.testing.assert_close(found[n - 2][0], x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("size", "border", "side"), [(448, 28, 392), (256, 16, 392), (96, 6, 140)])
def test_the_centre_is_seen(size, border, side):
    """An image that is bright at its border alone is dark where it is looked at."""
    images = torch.ones(1, 3, size, size)
    images[:, :, border:-border, border:-border] = 0
    found = seen(images)
    assert found.shape == (1, 3, side, side)
    assert not found.any()
    if size == 448:
        image = torch.rand(1, 3, 448, 448)
        torch.testing.assert_close(seen(image), image[:, :, 28:420, 28:420])


def test_map_and_score(small):
    """The border repeats the nearest seen pixel; the score is the mean of the highest 1 % of what was seen."""
    torch.manual_seed(0)
    with torch.no_grad():
        maps = small.anomaly_maps(small.encode(torch.randn(2, 3, 96, 96)), 96)
    assert torch.equal(maps[:, :6], maps[:, 6:7].expand(-1, 6, -1))
    assert torch.equal(maps[:, :, 90:], maps[:, :, 89:90].expand(-1, -1, 6))
    maps = torch.rand(2, 96, 96)
    maps[:, :6] = 2.0
    for score, each in zip(small.image_scores(maps), maps.numpy(), strict=True):
        highest = np.sort(each[6:90, 6:90].ravel())[-70:]  # 84 x 84 x 0.01
        assert score.item() == pytest.approx(highest.mean(), rel=1e-5)


def test_blur_is_a_five_by_five_gaussian():
    maps = torch.rand(1, 1, 9, 9)
    padded = np.pad(maps[0, 0].numpy(), 2)
    kernel = np.array([[math.exp(-(i * i + j * j) / 32) for j in range(-2, 3)] for i in range(-2, 3)])
    expected = [[(padded[y : y + 5, x : x + 5] * kernel).sum() / kernel.sum() for x in range(9)] for y in range(9)]
    np.testing.assert_allclose(blur(maps)[0, 0].numpy(), expected, rtol=1e-5)


def test_jitter_is_a_dropout():
    with pytest.raises(UserError, match="from 0 to 1, not 20"):
        build_model(ModelSettings(method="dinomaly", encoder="dinov2_vitb14_reg"))
    with pytest.raises(UserError, match="unknown 'resnet34'"):
        build_model(ModelSettings(method="dinomaly", jitter=0.2))
