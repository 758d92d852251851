"""DiAD against literal formulas, published counts and a file in its weights' own layout."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import stable_diffusion_file
import torch
import torch.nn.functional as F
from training_runs import CPU, changed, tiles_run

import omniad.training.loop
from omniad.config import ModelSettings, TrainingSettings
from omniad.data.pack_writer import write_pack
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.baselines import diad
from omniad.models.baselines.diad import DiAD
from omniad.models.baselines.diad_networks import SpatialFusion
from omniad.models.baselines.diad_weights import empty_prompt
from omniad.training.train import train

FULL = ModelSettings(method="diad", encoder="resnet50")
SMALL = ModelSettings(method="diad", encoder="resnet18", encoder_width=8)


@pytest.fixture(scope="module")
def small() -> DiAD:
    """With the layers that start at zero drawn, so that all of it has an effect."""
    torch.manual_seed(0)
    model = build_model(SMALL).eval()
    assert isinstance(model, DiAD)
    with torch.no_grad():
        for parameter in model.guide.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def count(module: torch.nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def test_counts():
    """1331.3 M are published, without saying of what: of these three, cut."""
    with torch.device("meta"):
        model = build_model(FULL)
    assert isinstance(model, DiAD)
    assert count(model.unet) == 859_520_964
    assert count(model.guide.control) == 361_279_120
    assert count(model.guide.fusion) == 110_592_000
    assert math.floor((count(model.unet) + count(model.guide)) / 1e5) == 13313
    assert count(model.autoencoder) == 83_653_863
    assert count(model.encoder) == 8_543_296
    # The authors' optimizer also holds the zero convolutions of the skips 0 to 5, whose outputs they throw away.
    unused = 4 * (320**2 + 320) + 2 * (640**2 + 640)
    trained = [model.guide, model.unet.up_blocks, model.unet.conv_norm_out, model.unet.conv_out]
    assert sum(count(part, trained=True) for part in trained) == 982_679_124 - unused
    assert count(model.unet.down_blocks, trained=True) == count(model.unet.mid_block, trained=True) == 0


def test_only_the_middle_and_the_coarsest_skips_are_guided(small):
    with torch.no_grad():
        skips, middle = small.guide(
            torch.randn(2, 4, 12, 12), 500, small.prompt.expand(2, -1, -1), torch.randn(2, 3, 96, 96)
        )
    assert [tuple(skip.shape) for skip in skips[:9]] == [()] * 9
    assert not any(skips[:9])
    assert [tuple(skip.shape) for skip in skips[9:]] == [(2, 160, 2, 2)] * 3
    assert all(skip.any() for skip in skips[9:])
    assert middle.shape == (2, 160, 2, 2)


def test_fusion_adds_nine_convolutions():
    torch.manual_seed(0)
    fusion = SpatialFusion(3, 5)
    sources = [torch.randn(2, c, 8, 8) for c in (3, 5, 5)]
    skips = [torch.randn(2, 5, 4, 4) for _ in range(3)]
    for given, fused in zip(skips, fusion(sources, skips), strict=True):  # its weights start at zero
        torch.testing.assert_close(fused, given * torch.sigmoid(given))
    weights = [torch.randn_like(p) for p in fusion.parameters()]
    with torch.no_grad():
        for parameter, weight in zip(fusion.parameters(), weights, strict=True):
            parameter.copy_(weight)
    assert [tuple(w.shape) for w in weights] == [(5, 3, 3, 3), (5, 5, 3, 3), (5, 5, 3, 3)] * 3
    for j, fused in enumerate(fusion(sources, skips)):
        total = skips[j].clone()
        for k, source in enumerate(sources):
            x = F.conv2d(source, weights[3 * j + k], stride=2, padding=1)
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
            x = (x - mean) / (variance + 1e-5).sqrt()
            total += x * torch.sigmoid(x)
        torch.testing.assert_close(fused, total * torch.sigmoid(total), rtol=1e-4, atol=1e-5)


def test_reconstruction_is_ten_steps_of_ddim(small, monkeypatch):
    """The update of the paper on implicit models, with the betas of Stable Diffusion, and a made-up noise predictor."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    moments, images = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 32, 32)
    times = []

    def denoise(latents, time, hints):
        times.append(time)
        return 0.3 * latents + hints.mean() + time / 1000

    monkeypatch.setattr(small, "_denoise", denoise)
    monkeypatch.setattr(small, "_decode", lambda latents: latents)
    small.seed_draws(5)
    found = small.reconstruct(moments, images)
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randn(1, 4, 4, 4, generator=generator).double().numpy() for _ in range(2))
    mean, log_variance = moments[:, :4].double().numpy(), moments[:, 4:].double().numpy()
    x = 0.18215 * (mean + np.exp(log_variance / 2) * first)
    x = np.sqrt(alphas[999]) * x + np.sqrt(1 - alphas[999]) * second
    expected = list(range(901, 0, -100))
    for time in expected:
        noise = 0.3 * x + images.mean().item() + time / 1000
        clean = (x - np.sqrt(1 - alphas[time]) * noise) / np.sqrt(alphas[time])
        before = alphas[time - 100] if time > 100 else alphas[0]
        x = np.sqrt(before) * clean + np.sqrt(1 - before) * noise
    assert times == expected
    np.testing.assert_allclose(found.numpy(), x, rtol=1e-4, atol=1e-4)


def test_guidance_between_equal_prompts_changes_nothing(small):
    """The authors' inference asks twice, with the empty prompt and without one, which is the same prompt."""
    latents, images = torch.randn(1, 4, 12, 12), torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        once = small._denoise(latents, 701, images)
        empty, prompted = small._denoise(latents.repeat(2, 1, 1, 1), 701, images.repeat(2, 1, 1, 1)).chunk(2)
    torch.testing.assert_close(empty + 9 * (prompted - empty), once, rtol=1e-3, atol=1e-4)


def test_loss_is_the_error_of_the_predicted_noise(small, monkeypatch):
    alphas = torch.tensor(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    moments, images = torch.randn(3, 8, 4, 4), torch.randn(3, 3, 32, 32)
    seen = []
    monkeypatch.setattr(small, "_denoise", lambda x, times, _: seen.append((x, times)) or 0.5 * x)
    torch.manual_seed(3)
    found = small.loss([moments, images], TrainingSettings(decay_at=0.2), 0.2)
    torch.manual_seed(3)
    mean, log_variance = moments.chunk(2, dim=1)
    latents = 0.18215 * (mean + (log_variance / 2).exp() * torch.randn_like(mean))
    noise, times = torch.randn_like(mean), torch.randint(1000, (3,))
    kept = alphas[times].float()[:, None, None, None]
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    assert torch.equal(seen[0][1], times)
    torch.testing.assert_close(found, ((0.5 * noisy - noise) ** 2).mean(), rtol=1e-4, atol=1e-6)


def test_autoencoder_loss():
    """L1 and the divergence from a standard normal, both as the authors sum them, over the number of values."""

    class Posterior:
        mean, logvar = torch.tensor([[[[0.5, -1.0]]]]), torch.tensor([[[[0.2, -0.4]]]])
        std = (0.5 * logvar).exp()

        def kl(self):
            return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))

    class Autoencoder:
        def encode(self, images):
            return type("Encoded", (), {"latent_dist": Posterior()})

        def decode(self, z, return_dict):
            return (z.mean() * torch.ones(1, 3, 2, 2),)

    images = torch.rand(1, 3, 2, 2)
    torch.manual_seed(0)
    z = Posterior.mean + Posterior.std * torch.randn(1, 1, 1, 2)
    torch.manual_seed(0)
    found = diad.autoencoder_loss(Autoencoder(), images)  # type: ignore[arg-type]
    divergence = sum(0.5 * (m**2 + math.exp(v) - 1 - v) for m, v in ((0.5, 0.2), (-1.0, -0.4)))
    summed = (images - z.mean()).abs().sum().item() + 1e-6 * divergence
    assert found.item() == pytest.approx(summed / 12, rel=1e-6)


def test_image_score_is_the_maximum_after_eight_means(small):
    maps = torch.rand(2, 96, 96)
    for found, each in zip(small.image_scores(maps), maps.double().numpy(), strict=True):
        for _ in range(8):
            each = np.lib.stride_tricks.sliding_window_view(each, (8, 8)).mean((2, 3))
        assert each.shape == (40, 40)
        assert found.item() == pytest.approx(each.max(), rel=1e-5)


def test_empty_prompt_is_what_a_causal_transformer_makes_of_it():
    """Pre-norm layers, twelve heads, quick GELU; a position sees itself and what is before it."""
    torch.manual_seed(0)
    entries = stable_diffusion_file.text_entries()

    def linear(x, name):
        return x @ entries[f"{name}.weight"].T + entries[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, (768,), entries[f"{name}.weight"], entries[f"{name}.bias"])

    table = entries["embeddings.token_embedding.weight"]
    x = torch.stack([table[49406 if place == 0 else 49407] for place in range(77)])
    x = x + entries["embeddings.position_embedding.weight"]
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        y = norm(x, f"{layer}.layer_norm1")
        q, k, v = (linear(y, f"{layer}.self_attn.{part}_proj").reshape(77, 12, 64) for part in "qkv")
        attended = torch.zeros(77, 12, 64)
        for head in range(12):
            for place in range(77):
                logits = k[: place + 1, head] @ q[place, head] / 8
                attended[place, head] = logits.softmax(0) @ v[: place + 1, head]
        x = x + linear(attended.reshape(77, 768), f"{layer}.self_attn.out_proj")
        hidden = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{layer}.mlp.fc2")
    torch.testing.assert_close(empty_prompt(entries), norm(x, "final_layer_norm"), rtol=1e-4, atol=1e-4)


def test_weights_in_their_own_layout(tmp_path):
    torch.manual_seed(1)
    published = build_model(SMALL)
    assert isinstance(published, DiAD)
    file = tmp_path / "v1-5-pruned.safetensors"
    stable_diffusion_file.write(file, published.unet, published.autoencoder)
    torch.manual_seed(2)
    model = build_model(SMALL)
    assert isinstance(model, DiAD)
    before = model.prompt.clone()
    model.load_start(file)
    for ours, theirs in ((model.unet, published.unet), (model.autoencoder, published.autoencoder)):
        entries = theirs.state_dict()
        assert all(torch.equal(value, entries[name]) for name, value in ours.state_dict().items())
    for name, value in model.guide.control.mid_block.state_dict().items():  # the guide starts as the encoder's copy
        assert torch.equal(value, published.unet.mid_block.state_dict()[name])
    assert not torch.equal(model.prompt, before)
    (tmp_path / "other.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        model.load_start(tmp_path / "other.safetensors")
    wide = build_model(SMALL.model_copy(update={"encoder_width": 16}))
    assert isinstance(wide, DiAD)
    with pytest.raises(UserError, match="wrong shape"):
        wide.load_start(file)


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'omniad\[diad\]'"):
        build_model(SMALL)


def test_too_small_images_are_told(small):
    with pytest.raises(UserError, match="more than 64 pixels"):
        small.encode(torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
def test_a_killed_training_goes_on_from_either_stage(tmp_path, monkeypatch):
    """The autoencoder is trained for two epochs of two steps, then features are kept; a kill in each stage."""
    run = changed(tiles_run(tmp_path / "data"), epochs=4, decay_at=0.5, learning_rate=0.001)
    model = SMALL.model_copy(update={"encoder_weights": "random"})
    run = run.model_copy(update={"model": model, "data": run.data.model_copy(update={"image_size": 96})})
    write_pack(run.source, run.pack_folder.parent / "index.csv", run.pack_folder, 96)
    step, taken = omniad.training.loop.train_step, []
    features = run.pack_folder / "features"

    def killed_at(number):
        def taking(*arguments):
            if len(taken) == number:
                raise KeyboardInterrupt
            taken.append((arguments[-1], features.exists()))
            return step(*arguments)

        return taking

    for number in (2, 7):
        monkeypatch.setattr(omniad.training.loop, "train_step", killed_at(number))
        with pytest.raises(KeyboardInterrupt):
            train(changed(run, save_every_s=0.0), 0, tmp_path / "killed", CPU)
    monkeypatch.setattr(omniad.training.loop, "train_step", killed_at(None))
    train(run, 0, tmp_path / "killed", CPU)
    assert taken == [(number / 8, number >= 4) for number in range(8)]
    train(run, 0, tmp_path / "whole", CPU)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
