"""DeSTSeg and its synthetic defects against literal formulas and counts."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from omniad.config import ModelSettings, TrainingSettings, load_settings, run_settings
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.baselines import perlin
from omniad.models.baselines.destseg import AtrousPyramid, DeSTSeg, likeness, segmentation_loss, student_loss
from omniad.models.complexity import MacCounter, complexity
from omniad.training.loop import train_step

SMALL = ModelSettings(method="destseg", encoder="resnet18", encoder_width=8)
FULL = ModelSettings(method="destseg", encoder="resnet18")


def literal_student_loss(teacher: list[torch.Tensor], student: list[torch.Tensor]) -> torch.Tensor:
    """As the authors': normalised features, 1 - their product, summed over everything, divided by h w."""
    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        t, s = (x / ((x**2).sum(dim=1, keepdim=True).sqrt() + 1e-12) for x in (t, s))
        total = total + (1 - (s * t).sum(dim=1)).sum() / (t.shape[2] * t.shape[3])
    return total


def literal_segmentation_loss(probability: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    masks = F.interpolate(masks, size=probability.shape[2:], mode="bilinear", align_corners=False)
    masks = torch.where(masks < 0.5, torch.zeros_like(masks), torch.ones_like(masks))
    cross_entropy = F.binary_cross_entropy(probability, masks, reduction="none")
    right = probability * masks + (1 - probability) * (1 - masks)
    return (cross_entropy * (1 - right) ** 4).mean() + F.l1_loss(probability, masks)


def test_student_loss_sums_over_the_batch():
    generator = torch.Generator().manual_seed(0)
    teacher, student = ([torch.randn(32, c, s, s, generator=generator) for c, s in [(3, 4), (6, 2)]] for _ in range(2))
    found = student_loss(teacher, student)
    torch.testing.assert_close(found, literal_student_loss(teacher, student))
    halves = [
        student_loss([t[part] for t in teacher], [s[part] for s in student]) for part in (slice(16), slice(16, 32))
    ]
    torch.testing.assert_close(found, sum(halves))


def test_segmentation_loss_is_focal_plus_absolute_error():
    probability = torch.tensor([[[[0.9, 0.2], [0.4, 0.7]]]])
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :2] = 1  # the prediction's first pixel
    masks[..., 2, 2] = 1  # a quarter of its last: cut off
    right = [0.9, 0.8, 0.6, 0.3]
    expected = np.mean([-((1 - p) ** 4) * math.log(p) + (1 - p) for p in right])
    assert segmentation_loss(probability, masks).item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(segmentation_loss(probability, masks), literal_segmentation_loss(probability, masks))
    wrong = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])  # the logarithm ends at -100
    torch.testing.assert_close(segmentation_loss(*wrong), literal_segmentation_loss(*wrong), rtol=1e-3, atol=0)


def test_steps_of_both_phases_are_the_authors():
    """Two SGDs, of which the phase's own one steps; rates 0.4, and 0.1 and 0.01 for the segmentation's two parts."""
    torch.manual_seed(0)
    model = DeSTSeg(SMALL).double().train()
    literal = copy.deepcopy(model)
    run = run_settings(load_settings(), "mvtec", "destseg").training.model_copy(update={"textures": ""})
    optimizers = model.make_optimizers(run)
    student, parts = literal.student, literal.segmentation
    groups = [{"params": parts.residual.parameters(), "lr": 0.1}, {"params": parts.head.parameters(), "lr": 0.01}]
    segmentation_sgd = torch.optim.SGD(groups, lr=0.001, momentum=0.9, weight_decay=1e-4)
    student_sgd = torch.optim.SGD(student.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(4, 3, 64, 64).double()
    for progress in (0.0, 0.1, 0.2, 0.9):
        torch.manual_seed(1)
        train_step(model, [images], optimizers, run, progress)

        torch.manual_seed(1)
        damaged, masks = perlin.plant_defects(images, "")
        student.train(progress < 0.2)
        parts.train(progress >= 0.2)
        student_sgd.zero_grad()
        segmentation_sgd.zero_grad()
        teacher, found = literal.encoder(damaged), student(damaged)
        if progress < 0.2:
            literal_student_loss(literal.encoder(images), found).backward()
            student_sgd.step()
        else:
            pairs = [-F.normalize(t) * F.normalize(s) for t, s in zip(teacher, found, strict=True)]
            levels = [F.interpolate(x, size=pairs[0].shape[2:], mode="bilinear", align_corners=False) for x in pairs]
            literal_segmentation_loss(parts(torch.cat(levels, dim=1)), masks).backward()
            segmentation_sgd.step()
    for (name, found), expected in zip(model.named_parameters(), literal.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_initial_distributions():
    torch.manual_seed(0)
    model: Any = DeSTSeg(FULL)
    for convolution, fan_out in [
        (model.student.stem[0], 49 * 64),
        (model.student.down[2][0].conv1, 9 * 256),
        (model.student.bottom[0].conv1, 9 * 512),
        (model.segmentation.residual[1].conv2, 9 * 256),
    ]:
        assert abs(convolution.weight.mean()) < 1e-3
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    for convolution in (model.segmentation.head[0].fuse[0], model.segmentation.head[1]):  # PyTorch's own draw
        bound = convolution.weight[0].numel() ** -0.5
        assert 0.99 * bound < convolution.weight.abs().max() <= bound
    down = [block for layer in model.student.down for block in layer]
    up = [block for layer in (model.student.bottom, *model.student.up) for block in layer]
    assert not any(block.bn2.weight.any() for block in down)  # timm's ResNets begin as their shortcuts
    assert all((block.bn2.weight == 1).all() for block in up)
    assert all((block.bn1.weight == 1).all() for block in down + up)


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
    full = torch.rand(2, 256, 256)
    expected = torch.sort(full.view(2, -1), dim=1, descending=True)[0][:, :100].mean(dim=1)
    torch.testing.assert_close(model.image_scores(full), expected)


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


def test_noise_is_turned_about_its_centre():
    noise = torch.zeros(5, 5)
    noise[2, 4] = noise[2, 2] = 1.0
    turned = perlin.rotated(noise, math.pi / 2)
    torch.testing.assert_close(turned, noise.rot90(1) if turned[0, 2] > 0.5 else noise.rot90(-1), atol=1e-5, rtol=0)
    eighth = perlin.rotated(torch.ones(64, 64), math.pi / 4)
    assert eighth[32, 32] == pytest.approx(1)
    assert eighth[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0.0] * 4  # from outside


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
