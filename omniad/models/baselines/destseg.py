"""DeSTSeg: a student learns to ignore defects; a segmentation network compares it with a teacher.

Source: Zhang et al., "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection", CVPR 2023;
apple/ml-destseg.

Different here: one model for all classes instead of one a class, and epochs instead of 5000 steps a class; the student
has the first fifth of them, as there. Training images are not rotated (the authors do it for some classes of MVTec-AD,
by angles that differ from class to class). A score is the mean of the 100 highest of 256x256 pixels, and of as large a
share at other sizes. `training.textures` is the folder of the defects' textures; empty, they are other images' of the
batch: another method, which a run's note must say.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from omniad.config import ModelSettings, TrainingSettings
from omniad.models.baselines.perlin import plant_defects
from omniad.models.encoder import Encoder, initialise_convolutions, resnet_layer
from omniad.models.method import Method

STUDENT_SHARE = 0.2  # of the steps; the segmentation network has the others
GAMMA = 4.0  # of the focal loss
SMALLEST = math.exp(-100)  # where PyTorch's binary cross-entropy, which the authors use, ends the logarithm
TOP_SHARE = 100 / 256**2  # of the pixels that make an image's score
MOMENTUM = 0.9
RESIDUAL_RATE, HEAD_RATE = 0.1 / 0.4, 0.01 / 0.4  # of the segmentation network's parts, in the student's
ATROUS = (6, 12, 18)


class DeSTSeg(Method):
    """Frozen teacher, denoising student, segmentation network."""

    caches_features = False  # every step plants new defects into the images
    same_every_step = False  # and trains one network after the other

    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self.encoder = Encoder(settings.encoder, settings.encoder_width)
        self.student = Student(self.encoder.channels)
        self.segmentation = Segmentation(sum(self.encoder.channels), 4 * settings.encoder_width)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> probability of a defect (B, 1, H/4, W/4)."""
        return self.segmentation(likeness(self.encoder(images), self.student(images)))

    def encode(self, images: Tensor) -> list[Tensor]:
        """The images themselves: defects are planted into them in training."""
        return [images]

    def draw(self, training: TrainingSettings, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The images with defects planted into them, and the defects' masks (B, 1, H, W)."""
        return list(plant_defects(images, training.textures, generator))

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """First the student's loss, then the segmentation network's; the other one's statistics rest."""
        images, *drawn = features
        damaged, masks = drawn or plant_defects(images, training.textures)
        student_first = progress < STUDENT_SHARE
        self.student.train(self.training and student_first)
        self.segmentation.train(self.training and not student_first)
        if student_first:
            return student_loss(self.encoder(images), self.student(damaged))
        with torch.no_grad():
            compared = likeness(self.encoder(damaged), self.student(damaged))
        return segmentation_loss(self.segmentation(compared), masks)

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """The probability of a defect, resized bilinearly: (B, size, size)."""
        probability = self(features[0]).float()
        return F.interpolate(probability, size=(size, size), mode="bilinear", align_corners=False)[:, 0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """The mean of the 100 highest pixels of 256x256."""
        pixels = maps.flatten(1)
        return pixels.topk(max(1, round(TOP_SHARE * pixels.shape[1])), dim=1).values.mean(dim=1)

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """SGD with a rate for the student and smaller ones for the segmentation network's two parts."""
        rate = training.learning_rate
        groups = [
            {"params": list(self.student.parameters()), "lr": rate},
            {"params": list(self.segmentation.residual.parameters()), "lr": RESIDUAL_RATE * rate},
            {"params": list(self.segmentation.head.parameters()), "lr": HEAD_RATE * rate},
        ]
        return [torch.optim.SGD(groups, rate, momentum=MOMENTUM, weight_decay=training.weight_decay)]


def student_loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """1 - cos at every position: mean over positions, summed over the batch and the levels."""
    total = teacher[0].new_zeros(())
    for t, s in zip(teacher, student, strict=True):
        total = total + (1 - F.cosine_similarity(t, s, dim=1)).mean(dim=(1, 2)).sum()
    return total


def segmentation_loss(probability: Tensor, masks: Tensor) -> Tensor:
    """Focal loss plus mean absolute error; the masks (B, 1, H, W) are resized to the prediction and cut at a half."""
    target = F.interpolate(masks, size=probability.shape[2:], mode="bilinear", align_corners=False)
    target = (target >= 0.5).to(probability)
    right = torch.where(target > 0, probability, 1 - probability)
    focal = -((1 - right) ** GAMMA * right.clamp(min=SMALLEST).log()).mean()
    return focal + F.l1_loss(probability, target)


def likeness(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """-t s of the features normalised over the channels, all levels at the finest's size: (B, C, h, w)."""
    size = teacher[0].shape[2:]
    levels = [-F.normalize(t, dim=1) * F.normalize(s, dim=1) for t, s in zip(teacher, student, strict=True)]
    return torch.cat([F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in levels], dim=1)


class Student(nn.Module):
    """A ResNet-18 of four stages from scratch and its mirror image: images -> features like the teacher's."""

    def __init__(self, channels: list[int]):
        super().__init__()
        c1, c2, c3 = channels
        widths = [c1, c2, c3, 2 * c3]
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, c1, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(c1), nn.ReLU()),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        inputs = [c1, *widths]
        self.down = nn.Sequential(
            *(resnet_layer(BasicBlock, 2, inputs[k], widths[k], stride=2 if k else 1) for k in range(4))
        )
        outputs = [*widths[::-1]]
        self.bottom = resnet_layer(BasicBlock, 2, 2 * c3, 2 * c3)
        self.up = nn.ModuleList(resnet_layer(BasicBlock, 2, outputs[k], outputs[k + 1]) for k in range(3))
        initialise_convolutions(self)
        for block in self.down.modules():  # begin as their shortcuts alone: how timm makes the authors' encoder
            if isinstance(block, BasicBlock):
                nn.init.zeros_(cast(nn.BatchNorm2d, block.bn2).weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at 1/4, 1/8, 1/16."""
        x = self.bottom(self.down(self.stem(images)))
        maps = []
        for layer in self.up:
            x = layer(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
            maps.append(x)
        return maps[::-1]


class Segmentation(nn.Module):
    """Likeness (B, C, h, w) -> probability of a defect (B, 1, h, w)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.residual = resnet_layer(BasicBlock, 2, channels, width)
        initialise_convolutions(self.residual)  # the head starts as PyTorch's layers do
        self.head = nn.Sequential(AtrousPyramid(width), *_conv_norm(width, width, 3), nn.Conv2d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.residual(x)).sigmoid()


class AtrousPyramid(nn.Module):
    """The image's mean and three dilated 3x3 convolutions side by side, fused by a 3x3 one: (B, C, h, w) -> the same.

    What fuses them, and that the mean goes through a 1x1 convolution, is read off the authors' code.
    """

    def __init__(self, width: int):
        super().__init__()
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv_norm(width, width, 1))
        self.dilated = nn.ModuleList(_conv_norm(width, width, 3, d) for d in ATROUS)
        self.fuse = _conv_norm((1 + len(ATROUS)) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.interpolate(self.mean(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.fuse(torch.cat([mean, *(branch(x) for branch in self.dilated)], dim=1))


def _conv_norm(channels: int, out: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())
