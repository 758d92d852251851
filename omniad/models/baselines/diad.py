"""DiAD: a latent diffusion model, guided by the image itself, reconstructs what is normal in it.

Source: He et al., "DiAD: A Diffusion-based Framework for Multi-class Anomaly Detection", AAAI 2024.

A training has two stages. Until `training.decay_at` the autoencoder is fine-tuned to normalised images, at the whole
learning rate; then it stays as it is, what it makes of the training images is computed once, and the guided diffusion
model is trained on it, at `decay_factor` of the rate.

Deviations: the fine-tuning has no perceptual term (LPIPS needs two more files of weights), only L1 and KL, and starts
from the autoencoder in Stable Diffusion's file instead of kl-f8's own; a batch of 48 is one step, where the authors add
up four of 12; the last epoch is the result, where the authors took the best one on the test set. In inference their
guidance (scale 9) weighs two predictions for the same prompt against each other, which are equal: it is left out, which
halves the cost and changes nothing. All images of a call get the same noise. The map is divided by 9 (`cosine_maps`).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omniad.config import ModelSettings, TrainingSettings
from omniad.errors import UserError
from omniad.models.anomaly_map import cosine_maps
from omniad.models.baselines.diad_networks import PROMPT, SemanticGuide, make_autoencoder, make_scheduler, make_unet
from omniad.models.baselines.diad_weights import load_stable_diffusion
from omniad.models.encoder import Encoder
from omniad.models.method import Method

AUTOENCODER_BETAS = (0.5, 0.9)
AUTOENCODER_IMAGES = 4  # at once; more would not fit the memory that the second stage takes
KL_WEIGHT = 1e-6
LATENT_SCALE = 0.18215
TIMES = 1000
SMALLEST = 64  # pixels, too few
STEPS = 10  # of DDIM, from the last time
POOL, POOLINGS = 8, 8  # an image's score is its map's maximum after so many means over such windows


class DiAD(Method):
    """Frozen ResNet for the map; autoencoder; diffusion model whose encoder is frozen; guiding network."""

    same_every_step = False  # two stages
    evaluated_draws = 2  # each is ten steps through 1.3 billion parameters

    prompt: Tensor
    """What the text encoder makes of an empty text, (77, 768): the only prompt there is, a constant."""

    def __init__(self, settings: ModelSettings):
        """Raises UserError where the library diffusers is missing."""
        super().__init__(settings)
        width = settings.encoder_width
        self.encoder = Encoder(settings.encoder, width)
        self.autoencoder = make_autoencoder(width)
        self.unet = make_unet(width)
        self.guide = SemanticGuide(self.unet, width)
        self.register_buffer("prompt", torch.randn(PROMPT))
        self.unet.requires_grad_(False)
        for part in self._decoder():
            part.requires_grad_(True)
        if width == 64:
            self._save_memory()

    def _decoder(self) -> list[nn.Module]:
        """What is trained of the diffusion model."""
        return [self.unet.up_blocks, self.unet.conv_norm_out, self.unet.conv_out]

    def _save_memory(self) -> None:
        """Compute activations twice instead of keeping them, as the authors do; changes no number."""
        for network in (self.unet, self.guide.control):
            network.enable_gradient_checkpointing()

    def load_start(self, file: Path) -> None:
        """Stable Diffusion's weights for all but the frozen ResNet, and the constant prompt."""
        self.prompt.copy_(load_stable_diffusion(file, self.autoencoder, self.unet))
        self.guide = SemanticGuide(self.unet, self.settings.encoder_width)

    def encoding_parts(self) -> list[nn.Module]:
        """The autoencoder."""
        return [self.autoencoder]

    def features_settle_at(self, training: TrainingSettings) -> float:
        """When the autoencoder is done."""
        return training.decay_at

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) through every network once, one denoising step -> a map (B, H, W)."""
        moments, _ = self.encode(images)
        latents = self._denoise(moments[:, :4], TIMES - 1, images)
        return cosine_maps(self.encoder(images), self.encoder(self._decode(latents)), images.shape[2])

    @torch.no_grad()
    def encode(self, images: Tensor) -> list[Tensor]:
        """Mean and log-variance of the latents, (B, 8, H/8, W/8), and the images themselves, which guide.

        Raises:
            UserError: the images are so small that a single position is left at 1/64 of them.
        """
        if min(images.shape[2:]) <= SMALLEST:
            raise UserError(f"data.image_size: DiAD needs images of more than {SMALLEST} pixels, not {images.shape[2]}")
        return [self.autoencoder.encode(images).latent_dist.parameters, images]

    def loss(self, features: list[Tensor], training: TrainingSettings, progress: float = 0.0) -> Tensor:
        """First the autoencoder's loss on the images, then the error of the predicted noise."""
        moments, images = features
        if progress < training.decay_at:
            parts = [
                checkpoint(autoencoder_loss, self.autoencoder, part, use_reentrant=False) * len(part)
                for part in images.split(AUTOENCODER_IMAGES)
            ]
            return torch.stack(parts).sum() / len(images)
        latents = sample(moments, torch.randn_like(moments[:, :4]))
        noise = torch.randn_like(latents)
        times = torch.randint(TIMES, latents.shape[:1], device=latents.device)
        noisy = make_scheduler().add_noise(latents, noise, times)
        return F.mse_loss(self._denoise(noisy, times, images), noise)

    def anomaly_maps(self, features: list[Tensor], size: int) -> Tensor:
        """Cosine distances at three scales between image and reconstruction, (B, size, size)."""
        moments, images = features
        reconstructions = self.reconstruct(moments, images)
        return cosine_maps(self.encoder(images), self.encoder(reconstructions), size)

    def reconstruct(self, moments: Tensor, images: Tensor) -> Tensor:
        """Latents with the noise of the last time, ten steps of DDIM, and the autoencoder's decoder: (B, 3, H, W)."""
        draws = [torch.randn(moments[:1, :4].shape, generator=self.generator, device="cpu") for _ in range(2)]
        first, second = (draw.to(moments.device).expand_as(moments[:, :4]) for draw in draws)
        scheduler = make_scheduler()
        latents = scheduler.add_noise(sample(moments, first), second, torch.tensor([TIMES - 1], device=moments.device))
        scheduler.set_timesteps(STEPS)
        for time in scheduler.timesteps.tolist():  # 901, 801 ... 1
            latents = scheduler.step(self._denoise(latents, time, images), time, latents).prev_sample
        return self._decode(latents)

    def _denoise(self, latents: Tensor, times: Tensor | int, images: Tensor) -> Tensor:
        """The noise that is seen in latents (B, 4, h, w), of their shape."""
        prompt = self.prompt.expand(len(latents), -1, -1)
        skips, middle = self.guide(latents, times, prompt, images)
        return self.unet(
            latents,
            times,
            encoder_hidden_states=prompt,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]

    def _decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents / LATENT_SCALE, return_dict=False)[0]

    def image_scores(self, maps: Tensor) -> Tensor:
        """The maximum after eight means over 8x8 windows, stride 1."""
        x = maps[:, None]
        for _ in range(POOLINGS):
            x = F.avg_pool2d(x, POOL, stride=1)
        return x.amax(dim=(1, 2, 3))

    def make_optimizers(self, training: TrainingSettings) -> list[torch.optim.Optimizer]:
        """Adam for the autoencoder; AdamW for the diffusion model's decoder and what guides it."""
        guided = [self.guide, *self._decoder()]
        trained = [p for part in guided for p in part.parameters() if p.requires_grad]
        return [
            torch.optim.AdamW(trained, training.learning_rate, weight_decay=training.weight_decay, fused=True),
            torch.optim.Adam(self.autoencoder.parameters(), training.learning_rate, AUTOENCODER_BETAS, fused=True),
        ]

    @property
    def draws(self) -> bool:
        """The noise that reconstruction starts from is drawn."""
        return True


def sample(moments: Tensor, noise: Tensor) -> Tensor:
    """Scaled latents (B, 4, h, w) from mean and log-variance (B, 8, h, w) and standard normal noise."""
    mean, log_variance = moments.chunk(2, dim=1)
    return LATENT_SCALE * (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise)


def autoencoder_loss(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """L1 of the reconstruction, mean over the pixels, plus KL_WEIGHT x the divergence of the latents from a Gaussian.

    Both as the authors weigh them: their sums, divided by the number of pixel values.
    """
    posterior = autoencoder.encode(images).latent_dist  # type: ignore[operator]
    z = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
    reconstruction = autoencoder.decode(z, return_dict=False)[0]  # type: ignore[operator]
    return (reconstruction - images).abs().mean() + KL_WEIGHT * posterior.kl().sum() / images.numel()
