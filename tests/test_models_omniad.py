"""The whole model: shapes, jitter, training of both readings, saving and loading."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from omniad.config import ModelSettings, RunSettings, load_settings, run_settings, to_yaml
from omniad.errors import UserError
from omniad.models import Method, build_model, load_model, save_model
from omniad.models.neck import jitter

SMALL = {"encoder": "resnet18", "encoder_width": 16, "tokens": 16, "depths": [1, 1, 1, 1]}


def small(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build_model({**SMALL, **changes})


def loss(features: list[torch.Tensor], reconstructions: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([F.mse_loss(r, f) for r, f in zip(reconstructions, features, strict=True)]).sum()


def train(model: Any, steps: int, learning_rate: float = 1e-3) -> list[float]:
    """The loss of each step on one fixed batch, by the released recipe."""
    torch.manual_seed(0)
    features = model.encoder(torch.randn(2, 3, 64, 64))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    losses = []
    for _ in range(steps):
        error = loss(features, model.reconstruct(features))
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        losses.append(error.item())
    return losses


@pytest.mark.parametrize(("encoder", "expansion"), [("resnet18", 1), ("resnet50", 4), ("wide_resnet50_2", 4)])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_shapes(encoder, expansion, size):
    features, reconstructions = small(encoder=encoder, encoder_width=8)(torch.randn(2, 3, *size))
    shapes = [(2, 8 * expansion * 2**k, size[0] // 2 ** (k + 2), size[1] // 2 ** (k + 2)) for k in range(3)]
    assert [feature.shape for feature in features] == shapes
    assert [reconstruction.shape for reconstruction in reconstructions] == shapes


@pytest.mark.parametrize("size", [(32, 32), (100, 96)])
def test_images_that_do_not_fit(size):
    with pytest.raises(UserError, match="multiples of 32 and larger than 32"):
        small()(torch.randn(1, 3, *size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"heads": 5}, "5 heads do not divide the 16"), ({"tokens": 7}, "tokens"), ({"width": 1}, "width")],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        small(**changes)


def test_jitter_statistics():
    torch.manual_seed(0)
    x = torch.randn(2, 512, 4, 4) * torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    noise = jitter(x, 20.0) - x
    for image in range(2):
        token, added = x[image, :, 1, 2], noise[image, :, 1, 2]
        deviation = token.norm().item() / 512 * 20
        assert added.std().item() == pytest.approx(deviation, rel=4 / math.sqrt(2 * 512))  # 4 standard errors
        assert abs(added.mean().item()) < 4 * deviation / math.sqrt(512)
    assert torch.equal(jitter(x, 0.0), x)


def test_jitter_is_for_training_only():
    model = small()
    features = model.encoder(torch.randn(1, 3, 64, 64))
    for module in model.modules():  # keep the neck's BatchNorm out of the comparison
        module.eval()
    assert torch.equal(model.reconstruct(features)[0], model.reconstruct(features)[0])
    model.training = True
    assert not torch.equal(model.reconstruct(features)[0], model.reconstruct(features)[0])


# Biases that shift a whole channel (or all keys), which the next normalisation (or the softmax) takes away again.
WITHOUT_EFFECT = re.compile(
    r"^neck\..*\.0\.bias|conv[35]\.[03]\.bias|merge\.0\.bias|mlp\.linear1\.bias|second\.(key_value|output)\.bias"
)


@pytest.mark.parametrize("learnable", [("q", "kv"), ("kv", "kv"), ("none", "none")])
def test_gradients_reach_every_parameter_of_equations(learnable):
    model = small(first_attention=learnable[0], second_attention=learnable[1]).double()
    for name, parameter in model.decoder.named_parameters():
        if parameter.ndim > 1:  # larger than at the start, so that small gradients stand out from rounding
            torch.nn.init.normal_(parameter, std=1.0 if "tokens" in name else parameter[0].numel() ** -0.5)
    features, reconstructions = model(torch.randn(2, 3, 64, 64, dtype=torch.double))
    loss(features, reconstructions).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            largest = parameter.grad.abs().max().item()
            assert (largest < 1e-12) if WITHOUT_EFFECT.search(name) else (largest > 1e-9), (name, largest)


def key_value_tokens(model: Any) -> list[torch.Tensor]:
    return [block.global_branch.second.tokens.detach()[0] for stage in model.decoder.stages for block in stage.blocks]


def test_tokens_spread_in_equations_and_stay_equal_in_released():
    ours, released = small(), small(variant="released")
    before = [tokens.clone() for tokens in key_value_tokens(ours)]
    for model in (ours, released):
        train(model, 8)
    for tokens, start in zip(key_value_tokens(ours), before, strict=True):
        moved = tokens - start
        assert tokens.std(0).min() > 0.005  # T tokens, channel by channel
        assert moved.std(0).max() > 1e-5, "each token moves its own way"
    for tokens in key_value_tokens(released):
        assert tokens.abs().max() > 0, "they do move"
        assert torch.equal(tokens, tokens[:1].expand_as(tokens)), "all alike"


def test_released_key_values_have_no_effect():
    """Equal tokens give the same F2 at every position, which the first InstanceNorm after it takes away."""
    torch.manual_seed(0)
    model = small(variant="released", projection="none").double().eval()
    images = torch.randn(1, 3, 64, 64, dtype=torch.double)
    before = model(images)[1][0]
    with torch.no_grad():
        for stage in model.decoder.stages:
            for block in stage.blocks:
                block.global_branch.second.tokens.copy_(torch.randn(block.global_branch.second.tokens.shape[-1]))
    torch.testing.assert_close(model(images)[1][0], before)


@pytest.mark.parametrize("variant", ["equations", "released"])
@pytest.mark.parametrize("depths", [[3, 9, 9, 7], [6, 12, 11, 9]])
def test_loss_falls_at_full_depth(variant, depths):
    losses = train(small(variant=variant, depths=depths), 6)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.9 * losses[0]


def run(**changes) -> RunSettings:
    settings = run_settings(load_settings(), "mvtec", "default")
    return settings.model_copy(update={"model": ModelSettings(**{**SMALL, **changes})})


def save_run(folder, settings: RunSettings) -> Method:
    torch.manual_seed(0)
    model = build_model(settings)
    save_model(model, settings.model, folder / "model.safetensors")
    (folder / "config.yaml").write_text(to_yaml(settings))
    return model


def test_save_and_load(tmp_path):
    model = save_run(tmp_path, run())
    train(model, 1)
    save_model(model, run().model, tmp_path / "model.safetensors")
    first = (tmp_path / "model.safetensors").read_bytes()
    save_model(model, run().model, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == first, "no time, no path"
    random_state = torch.get_rng_state()
    loaded = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module.training for module in loaded.modules())
    assert {name: p.requires_grad for name, p in loaded.named_parameters()} == {
        name: p.requires_grad for name, p in model.named_parameters()
    }
    images = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(loaded(images)[1], model.eval()(images)[1], strict=True):
        assert torch.equal(ours, theirs)


def test_random_projection_repeats_after_loading(tmp_path):
    model = save_run(tmp_path, run(variant="released")).eval()
    images = torch.randn(1, 3, 64, 64)
    outputs = []
    for candidate in (model, load_model(tmp_path)):
        candidate.seed_draws(3)
        outputs.append(candidate(images)[1][0])
    assert torch.equal(*outputs)
    assert not torch.equal(model(images)[1][0], outputs[0]), "the next call draws anew"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": [1, 2, 1, 1]}, r"depths is \[1, 2, 1, 1\], trained with \[1, 1, 1, 1\]"),
        ({"heads": 4}, "heads is 4, trained with 8"),
        ({"first_attention": "kv"}, "first_attention is 'kv', trained with 'q'"),
    ],
)
def test_load_refuses_another_model(tmp_path, changes, message):
    save_run(tmp_path, run())
    (tmp_path / "config.yaml").write_text(to_yaml(run(**changes)))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_load_names_what_does_not_fit(tmp_path):
    save_run(tmp_path, run())
    wrong = {**small().state_dict(), "neck.fuse.0.bias": torch.zeros(3)}
    del wrong["decoder.stages.0.blocks.0.mlp.linear1.bias"]
    save_file(wrong, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"missing: decoder\.stages\.0\.blocks\.0\.mlp\.linear1\.bias.*fuse\.0\.bias \(3,\) instead"
    ):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_model(tmp_path)
