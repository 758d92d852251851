"""DeSTSeg and its synthetic defects against literal formulas and counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from omniad.config import ModelSettings, TrainingSettings
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.baselines import perlin
from omniad.models.baselines.destseg import AtrousPyramid, DeSTSeg, likeness, segmentation_loss, student_loss
from omniad.models.complexity import MacCounter, complexity

SMALL = ModelSettings(method="destseg", encoder="resnet18", encoder_width=8)
FULL = ModelSettings(method="destseg", encoder="resnet18")


def test_student_loss():
    generator = torch.Generator().manual_seed(0)
    teacher, student = ([torch.randn(2, c, s, s, generator=generator) for c, s in [(3, 4), (6, 2)]] for _ in range(2))
    expected = 0.0
    for t, s in zip(teacher, student, strict=True):
        t, s = t.double().numpy(), s.double().numpy()
        cosine = (t * s).sum(1) / np.sqrt((t**2).sum(1) * (s**2).sum(1))
        expected += (1 - cosine).sum() / cosine.size
    assert student_loss(teacher, student).item() == pytest.approx(expected, rel=1e-6)


def test_segmentation_loss_is_focal_plus_absolute_error():
    probability = torch.tensor([[[[0.9, 0.2], [0.4, 0.7]]]])
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :2] = 1  # the prediction's first pixel
    masks[..., 2, 2] = 1  # a quarter of its last: cut off
    right = [0.9, 0.8, 0.6, 0.3]
    expected = np.mean([-((1 - p) ** 4) * math.log(p) + (1 - p) for p in right])
    assert segmentation_loss(probability, masks).item() == pytest.approx(expected, rel=1e-5)


def test_likeness_is_the_negated_product_of_unit_features():
    teacher, student = ([torch.randn(1, c, s, s) for c, s in [(2, 4), (3, 4)]] for _ in range(2))
    found = likeness(teacher, student)[0, :, 1, 2].numpy()
    expected = []
    for t, s in zip(teacher, student, strict=True):
        a, b = t[0, :, 1, 2].numpy(), s[0, :, 1, 2].numpy()
        expected += list(-a / np.linalg.norm(a) * b / np.linalg.norm(b))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_map_is_the_probability_and_score_its_highest_pixels(monkeypatch):
    model = DeSTSeg(SMALL).eval()
    probability = torch.rand(1, 1, 4, 4)
    monkeypatch.setattr(model, "forward", lambda _: probability)
    maps = model.anomaly_maps([torch.empty(0)], 20)
    np.testing.assert_allclose(maps[0, 2::5, 2::5], probability[0, 0], rtol=1e-5)
    full = torch.rand(2, 64, 64)
    expected = [np.sort(one.numpy().ravel())[-100:].mean() for one in full]  # 100 of 64x64
    np.testing.assert_allclose(model.image_scores(full), expected, rtol=1e-5)


def test_two_phases():
    """In the first only the student learns, then only the segmentation network, each while the other's norms rest."""
    model = DeSTSeg(SMALL).train()
    images = torch.randn(4, 3, 64, 64)
    for progress, learns, rests in [
        (0.19, model.student, model.segmentation),
        (0.2, model.segmentation, model.student),
    ]:
        model.zero_grad()
        before = {name: value.clone() for name, value in rests.state_dict().items()}
        model.loss([images], TrainingSettings(), progress).backward()
        assert all(parameter.grad is not None for parameter in learns.parameters())
        assert all(parameter.grad is None for parameter in rests.parameters())
        assert all(torch.equal(before[name], value) for name, value in rests.state_dict().items())


def test_noise_of_gradients_is_perlins():
    """Smooth interpolation of the corners' gradients times the way from them, one pixel at a time."""
    gradients = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))  # 2 x 1 cells
    found = perlin.noise_of_gradients(gradients, (8, 4))
    fade = lambda t: 6 * t**5 - 15 * t**4 + 10 * t**3  # noqa: E731
    for i, j in [(0, 0), (3, 1), (5, 2), (7, 3)]:
        y, x = i * 2 / 8, j / 4
        r, dy, dx = int(y), y - int(y), x
        value = 0.0
        for down in (0, 1):
            for right in (0, 1):
                g = gradients[:, r + down, right].tolist()
                weight = (fade(dy) if down else 1 - fade(dy)) * (fade(dx) if right else 1 - fade(dx))
                value += weight * (g[0] * (dy - down) + g[1] * (dx - right))
        assert found[i, j].item() == pytest.approx(math.sqrt(2) * value, abs=1e-5)


def test_defects_change_the_image_inside_their_mask_alone():
    torch.manual_seed(0)
    images = torch.randn(6, 3, 64, 64)
    damaged, masks = perlin.plant_defects(images, "")
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert 0.01 < masks.mean() < 0.5
    inside = masks.expand_as(images) > 0
    assert torch.equal(damaged[~inside], images[~inside])
    assert (damaged[inside] != images[inside]).float().mean() > 0.95


def test_textures_come_from_the_folder(tmp_path):
    Image.new("RGB", (30, 20), (255, 255, 255)).save(tmp_path / "white.png")
    torch.manual_seed(1)
    damaged, masks = perlin.plant_defects(torch.zeros(4, 3, 32, 32), str(tmp_path))
    white = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    ratio = (damaged / torch.tensor(white, dtype=torch.float32)[:, None, None])[masks.expand_as(damaged) > 0]
    assert ((ratio > 0.19) & (ratio <= 1.0001)).all()  # at most 80 % of the original, which is 0
    with pytest.raises(UserError, match="no images"):
        perlin.plant_defects(torch.zeros(1, 3, 32, 32), str(tmp_path / "none"))


def test_parameters_and_multiply_adds_are_the_published_ones():
    """35.15 M and 30.67 G, which misses the convolutions padded with "same" in the authors' code, the one that fuses
    the pyramid and the one after its mean, and has the teacher twice; print has four times as many."""
    parameters, macs = complexity(FULL)
    with torch.device("meta"), torch.no_grad():
        model = build_model(FULL).eval()
        with MacCounter() as teacher:
            model.encoder(torch.empty(1, 3, 256, 256))
    fuse, mean = 9 * 4 * 256 * 256 * 64**2, 256 * 256
    counted = macs + teacher.macs - fuse - mean
    assert (round(parameters / 1e6, 2), round(counted / 1e9, 2), round(4 * counted / 1e9, 1)) == (35.15, 30.67, 122.7)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable()


def test_pyramid_compares_each_place_with_the_whole_image():
    """The first branch is the image's mean, the same at every place."""
    pyramid = AtrousPyramid(4).eval()
    x = torch.randn(2, 4, 8, 8)
    mean = pyramid.mean[1](x.mean(dim=(2, 3), keepdim=True)).expand(2, 4, 8, 8)
    expected = pyramid.fuse(torch.cat([mean, *(branch(x) for branch in pyramid.dilated)], dim=1))
    torch.testing.assert_close(pyramid(x), expected)


def trainable() -> int:
    def layer(inputs: int, out: int) -> int:  # two basic blocks
        shortcut = (inputs * out + 2 * out) if inputs != out else 0
        return 9 * inputs * out + 3 * 9 * out * out + 4 * 2 * out + shortcut

    student = 3 * 49 * 64 + 2 * 64 + sum(layer(*pair) for pair in [(64, 64), (64, 128), (128, 256), (256, 512)])
    student += sum(layer(*pair) for pair in [(512, 512), (512, 256), (256, 128), (128, 64)])
    pyramid = 256 * 256 + 3 * 9 * 256 * 256 + 4 * 512 + 9 * 1024 * 256 + 512
    return student + layer(448, 256) + pyramid + (9 * 256 * 256 + 512) + (256 + 1)


def test_rates():
    (optimizer,) = build_model(SMALL).make_optimizers(TrainingSettings(learning_rate=0.4, weight_decay=1e-4))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.1, 0.01])
    assert all((group["momentum"], group["weight_decay"]) == (0.9, 1e-4) for group in optimizer.param_groups)
