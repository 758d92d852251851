"""DiAD's start: Stable Diffusion v1.5's weights, and the constant that its text encoder makes of an empty prompt.

Entries of the file: `model.diffusion_model.*` (the denoiser), `first_stage_model.*` (the autoencoder, KL-f8),
`cond_stage_model.*` (CLIP ViT-L/14's text encoder). DiAD never has another prompt than the empty one, so the text
encoder runs once, here, and is not part of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omniad.models.baselines.diad_networks import PROMPT
from omniad.models.encoder import check_entries, read_entries

TEXT = "cond_stage_model.transformer.text_model."
HEADS = 12
BEGIN, END = 49406, 49407  # tokens: an empty text is one begin and ends up to the length


def load_stable_diffusion(file: Path, autoencoder: Any, unet: Any) -> Tensor:
    """Fill both networks from a file in Stable Diffusion's own layout; returns the prompt (77, 768).

    Raises:
        UserError: the file is damaged, or has not their entries.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    entries = read_entries(file)
    for network, convert in ((autoencoder, convert_ldm_vae_checkpoint), (unet, convert_ldm_unet_checkpoint)):
        own = _converted(convert, entries, network)
        check_entries(network.state_dict(), own, str(file))
        network.load_state_dict(own)
    return empty_prompt({name.removeprefix(TEXT): value for name, value in entries.items() if name.startswith(TEXT)})


def _converted(convert: Any, entries: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """The network's entries under diffusers' names; none where the file has others."""
    try:
        return convert(dict(entries), dict(network.config))
    except (KeyError, IndexError):
        return {}


@torch.no_grad()
def empty_prompt(entries: Mapping[str, Tensor]) -> Tensor:
    """What CLIP's text encoder makes of an empty text: (77, 768).

    Args:
        entries: of the text encoder: `embeddings.*`, `encoder.layers.<n>.*`, `final_layer_norm.*`.
    """
    length, width = PROMPT
    tokens = torch.tensor([BEGIN] + [END] * (length - 1))
    x = entries["embeddings.token_embedding.weight"][tokens] + entries["embeddings.position_embedding.weight"]
    x = x.float()[None]  # (1, N, D)
    later = torch.ones(length, length).triu(1).bool()  # a token does not look at what comes after it
    layers = 1 + max(int(name.split(".")[2]) for name in entries if name.startswith("encoder.layers."))
    for number in range(layers):
        x = _layer(entries, f"encoder.layers.{number}.")(x, src_mask=later)
    final = nn.LayerNorm(width)
    final.load_state_dict(_named(entries, "final_layer_norm."))
    return final(x)[0]


def _layer(entries: Mapping[str, Tensor], prefix: str) -> nn.TransformerEncoderLayer:
    """One of the text encoder's layers, as torch's own."""
    own = _named(entries, prefix)
    inner, width = own["mlp.fc1.weight"].shape
    layer = nn.TransformerEncoderLayer(width, HEADS, inner, 0.0, _quick_gelu, batch_first=True, norm_first=True)
    state = {
        "self_attn.out_proj": "self_attn.out_proj",
        "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
    }
    values = {
        f"{ours}.{kind}": own[f"{theirs}.{kind}"] for ours, theirs in state.items() for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        parts = [own[f"self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")]
        values[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    layer.load_state_dict(values)
    return layer.eval()


def _named(entries: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.float() for name, value in entries.items() if name.startswith(prefix)}


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
