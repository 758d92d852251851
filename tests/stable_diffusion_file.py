"""A file in Stable Diffusion's own layout, by its code's names for its parts: random weights of a narrow network."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
MIDDLE = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def denoiser_names() -> dict[str, str]:
    """Beginnings of diffusers' names -> of the file's: a level is two blocks and a downsampling; then the mirror."""
    names = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level in range(4):
        for block in range(2):
            number = 1 + 3 * level + block
            names[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{number}.0"
            names[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{number}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{3 + 3 * level}.0.op"
        for block in range(3):
            number = 3 * level + block
            names[f"up_blocks.{level}.resnets.{block}"] = f"output_blocks.{number}.0"
            names[f"up_blocks.{level}.attentions.{block}"] = f"output_blocks.{number}.1"
        attention = 2 if level else 1  # the coarsest level has none, so its upsampling comes second
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{3 * level + 2}.{attention}.conv"
    return names


def autoencoder_names() -> dict[str, str]:
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        names |= {f"{half}.{part}": f"{half}.{part}" for part in ("conv_in", "conv_out")}
        names[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        names |= {f"{half}.mid_block.{ours}": f"{half}.mid.{theirs}" for ours, theirs in MIDDLE.items()}
    for level in range(4):
        for block in range(3):
            names[f"encoder.down_blocks.{level}.resnets.{block}"] = f"encoder.down.{level}.block.{block}"
            names[f"decoder.up_blocks.{level}.resnets.{block}"] = f"decoder.up.{3 - level}.block.{block}"
        names[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        names[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"decoder.up.{3 - level}.upsample.conv"
    return names


def renamed(
    entries: dict[str, Tensor], names: dict[str, str], inside: dict[str, str], prefix: str
) -> dict[str, Tensor]:
    found = {}
    for name, value in entries.items():
        begin = max((own for own in names if name.startswith(f"{own}.")), key=len)
        rest, _, kind = name.removeprefix(f"{begin}.").rpartition(".")
        if value.ndim == 2 and "attentions" in name and rest in ATTENTION and prefix.startswith("first"):
            value = value[:, :, None, None]  # the autoencoder's attention is made of 1x1 convolutions
        theirs = [names[begin], inside.get(rest, rest), kind] if rest else [names[begin], kind]
        found[prefix + ".".join(theirs)] = value
    return found


def text_entries(layers: int = 2, width: int = 768, inner: int = 32) -> dict[str, Tensor]:
    """Of a text encoder of few layers; of the table of tokens only the two that an empty text has are set."""
    table = torch.empty(49408, width)
    table[49406:] = torch.randn(2, width)
    entries = {
        "embeddings.token_embedding.weight": table,
        "embeddings.position_embedding.weight": torch.randn(77, width),
    }
    modules = {"final_layer_norm": nn.LayerNorm(width)}
    for number in range(layers):
        prefix = f"encoder.layers.{number}."
        modules |= {f"{prefix}self_attn.{part}": nn.Linear(width, width) for part in ("q_proj", "k_proj", "v_proj")}
        modules |= {f"{prefix}self_attn.out_proj": nn.Linear(width, width)}
        modules |= {f"{prefix}mlp.fc1": nn.Linear(width, inner), f"{prefix}mlp.fc2": nn.Linear(inner, width)}
        modules |= {f"{prefix}layer_norm1": nn.LayerNorm(width), f"{prefix}layer_norm2": nn.LayerNorm(width)}
    for name, module in modules.items():
        for kind, value in module.named_parameters():
            entries[f"{name}.{kind}"] = torch.randn_like(value) / 10 + ("norm" in name and kind == "weight")
    return entries


def write(file: Path, unet: nn.Module, autoencoder: nn.Module) -> None:
    """Both networks' weights and a text encoder's, as the published file holds them."""
    vae_inside = ATTENTION | {"conv_shortcut": "nin_shortcut"}
    entries = renamed(unet.state_dict(), denoiser_names(), RESNET, "model.diffusion_model.")
    entries |= renamed(autoencoder.state_dict(), autoencoder_names(), vae_inside, "first_stage_model.")
    entries |= {f"cond_stage_model.transformer.text_model.{name}": value for name, value in text_entries().items()}
    safetensors.torch.save_file({name: value.contiguous() for name, value in entries.items()}, file)
