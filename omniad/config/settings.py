"""Every setting once: its type, its default and what it means. The defaults are the paper's protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from omniad.config.checking import Section
from omniad.config.shown import FigureSettings, TableSettings, VerdictSettings
from omniad.config.types import MEMORY, Batch, MadePath, Many, Name, PathText, Pixels, Seed, at_most

# Settings that change how fast a number is computed, or what is recorded beside it, but not the number.
SPEED_ONLY = {"training": {"cache_gib", "save_every_s", "evaluate_every", "cuda_graph"}, "evaluation": {"batch_size"}}

TableOne = Literal["omni-ad", "rd4ad", "uniad", "simplenet", "mambaad", "rlr", "destseg", "diad"]
MethodName = Literal[TableOne, "patchcore", "padim", "patch-memory", "dinomaly"]
ResNet = Literal["resnet18", "resnet34", "resnet50", "wide_resnet50_2"]
EfficientNet = Literal["efficientnet_b4", "efficientnet_b6", "tf_efficientnet_b4", "tf_efficientnet_b6"]
EfficientNetLite = Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
Encoder = Literal[ResNet, EfficientNet, EfficientNetLite, "dinov2_vitb14_reg"]
Learnable = Literal["q", "kv", "none", "skip"]
Variant = Literal["equations", "released"]
VARIANTS: tuple[Variant, ...] = ("released", "equations")  # as the tables order them
Branches = Literal["both", "global", "local"]


def _square(tokens: int) -> int:
    if math.isqrt(tokens) ** 2 != tokens:
        raise ValueError("must be a square (16, 36, 64, 100), because the tokens are laid out as a grid")
    return tokens


def _four(values: list) -> list:
    if len(values) != 4:
        raise ValueError("must be four numbers, one per stage of the decoder")
    return values


def _four_or_none(values: list) -> list:
    return _four(values) if values else values


def _unique(values: list) -> list:
    if len(set(values)) != len(values):
        raise ValueError("must not contain anything twice")
    return values


class DownloadSettings(Section):
    """What is fetched, and where it goes. A file or folder put there by hand is used as it is."""

    title: str = Field(description="name in tables and messages")
    folder: PathText = Field(description="the extracted data set (relative to the working folder)")
    url: str = Field(default="", description="address of the archive, or of the page that offers it")
    mirrors: list[str] = Field(default=[], description="further addresses of the same archive")
    hub: str = Field(default="", description="repository on the Hugging Face hub, if it is fetched from there")
    archive: PathText = Field(
        default="", description="where to put the archive; a folder for several. Empty: no download"
    )
    size_bytes: int = Field(
        default=0, ge=0, description="of the archive; with `hub`, roughly, of all files; 0: unknown"
    )
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$", description="of the archive; empty: not published")
    licence: str = Field(default="", description="shown when the data set is fetched, and recorded")


class SourceSettings(DownloadSettings):
    """Where one data set comes from and how it is read."""

    layout: Literal["mvtec", "mvtec_ad_2", "mvtec_loco", "visa", "realiad", "own"] = Field(
        description="how its files are laid out; own: your own images, see omniad/data/layouts/own.py"
    )
    counts: PathText = Field(
        default="", description="expected numbers of images: a table in config/counts/, or the path of a CSV file"
    )
    note: str = Field(default="", description="how to read its numbers; shown in the report")
    classes: Annotated[list[Name], AfterValidator(_unique)] = Field(
        default=[], description="classes to use; empty: all (`classes` at the top level is for all `datasets`)"
    )
    resolution: Literal[256, 512, 1024] = Field(default=1024, description="Real-IAD: which version of the images")
    views: list[Literal["C1", "C2", "C3", "C4", "C5"]] = Field(
        default=[], description="Real-IAD: which views; empty: all"
    )
    held_out: float = Field(
        default=0.2, ge=0, lt=1, description="own: share of a product's good images held out for the threshold"
    )
    miniature: bool = Field(
        default=False, description="made by `omniad miniature`; its accuracies are not comparable with anything"
    )


class DataSettings(Section):
    prepared: MadePath = Field(default="data/prepared", description="folder of the indexes and packs")
    weights: MadePath = Field(default="data/weights", description="folder of the encoder weights")
    image_size: Pixels = Field(
        default=256, ge=64, multiple_of=32, description="side of the resized square image, pixels"
    )

    def pack_folder(self, dataset: str) -> Path:
        """Where a data set's images are, or will be, at this resolution."""
        return Path(self.prepared, dataset, str(self.image_size))


class ModelSettings(Section):
    method: MethodName = Field(
        default="omni-ad", description="omni-ad, or another method; each uses only some of the settings below"
    )
    variant: Variant = Field(
        default="equations", description="the paper's equations, or what the authors' code computes"
    )
    encoder: Encoder = Field(
        default="resnet34",
        description="frozen feature extractor (Table VII); not every method works with every encoder",
    )
    encoder_width: Annotated[int, at_most(1024, MEMORY)] = Field(
        default=64,
        ge=8,
        multiple_of=8,
        description="channels of a ResNet encoder's stem; 64 is the full size",
    )
    encoder_weights: PathText = Field(
        default="timm",
        description="timm (as released), imagenet (torchvision's; EfficientNet-Lite's), dinov2, random, or a file",
    )
    first_attention: Learnable = Field(default="q", description="what learnable tokens replace in the first attention")
    second_attention: Learnable = Field(
        default="kv", description="the same in the second; skip leaves the attention out"
    )
    tokens: Annotated[int, Field(ge=1), AfterValidator(_square), at_most(4096, MEMORY)] = Field(
        default=64, description="learnable tokens T"
    )
    heads: Annotated[int, at_most(1024, MEMORY)] = Field(default=8, ge=1, description="attention heads H")
    branches: Branches = Field(default="both", description="both, or only the global or the local branch (Table V)")
    depths: Annotated[list[Annotated[int, Field(ge=1), at_most(100, MEMORY)]], AfterValidator(_four)] = Field(
        default=[3, 9, 9, 7], description="Omni-blocks in each of the decoder's four stages, coarsest first"
    )
    widths: Annotated[list[Annotated[int, Field(ge=8), at_most(8192, MEMORY)]], AfterValidator(_four_or_none)] = Field(
        default=[],
        description="channels of the decoder's four stages, coarsest first; empty: 8C, 4C, 2C, C, with the encoder's C "
        "at 1/4 of the image's side",
    )
    standardise: bool = Field(
        default=False,
        description="scale each channel of the encoder's maps to mean 0 and deviation 1 over the training images",
    )
    memory: int = Field(default=20_000, ge=1, description="patches kept in the memory (patchcore, patch-memory)")
    candidates: int = Field(
        default=200_000, ge=1, description="random patches of the training images to choose them from"
    )
    jitter: float = Field(
        default=20.0,
        ge=0,
        description="scale of the noise on the neck's output in training; 0 is off. Dinomaly: its bottleneck's dropout",
    )
    projection: Literal["random", "none"] = Field(
        default="random", description="output projection of `released`: redrawn at every call, or left out"
    )


class TrainingSettings(Section):
    epochs: Many = Field(default=500, ge=1)
    batch_size: Batch = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, description="AdamW's")
    weight_decay: float = Field(default=1e-4, ge=0, description="not on biases and other 1-D parameters")
    decay_at: float = Field(
        default=0.8, gt=0, le=1, description="fraction of the epochs after which the learning rate drops"
    )
    decay_factor: float = Field(default=0.1, gt=0, le=1)
    clip_norm: float = Field(default=5.0, ge=0, description="maximum global gradient norm; 0 is off")
    loss: Literal["mean", "eq6"] = Field(
        default="mean", description="mean squared error, or equation 6 as printed (not divided by the channels)"
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        default="fp32",
        description="of a training step; tf32 applies only to GPUs; the encoder always uses fp32",
    )
    compile: bool = Field(
        default=False, description="compile the decoder's blocks with torch.compile, if there is a compiler"
    )
    cuda_graph: bool = Field(
        default=True, description="record a training step as a CUDA graph and replay it: fewer launches, same numbers"
    )
    textures: PathText = Field(
        default="", description="DeSTSeg: folder of textures for its defects (DTD); empty: other images of the batch"
    )
    cache_gib: float = Field(
        default=40.0,
        ge=0,
        description="keep the encoder's features on disk up to this size, GiB; 0 recomputes them in every step",
    )
    save_every_s: float = Field(
        default=300.0, ge=0, description="seconds between saves of the training's state; 0 saves after every step"
    )
    evaluate_every: Many = Field(
        default=0, ge=0, description="epochs between records of the test metrics (epochs.csv); 0 is off"
    )


class EvaluationSettings(Section):
    batch_size: Batch = Field(default=16, ge=1, description="images per batch; halved when memory runs out")
    sigma: Annotated[float, at_most(1000, "more blurs a map completely")] = Field(
        default=4.0, ge=0, description="of the Gaussian that smooths the anomaly map, pixels; 0 is off"
    )


class Change(Section):
    """What differs from the defaults."""

    model: dict[str, Any] = Field(default={})
    training: dict[str, Any] = Field(default={})
    evaluation: dict[str, Any] = Field(default={})
    unlike: str = Field(
        default="", description="how it differs from the publication; the report shows this instead of a verdict"
    )


class RunChange(Change):
    """What one run changes of the defaults; `per_dataset` changes more on single data sets."""

    per_dataset: dict[Name, Change] = Field(default={})
    note: str = Field(default="", description="shown beside the run's numbers in the report")

    def unlike_on(self, dataset: str) -> str:
        """How the run differs from the publication on a data set; empty when it doesn't."""
        return self.per_dataset.get(dataset, Change()).unlike or self.unlike


class Settings(Section):
    """The whole configuration: what `results/config.yaml` holds."""

    title: str = Field(default="Omni-AD: a reproduction", description="of the report")
    results: MadePath = Field(default="results", description="folder of all results")
    datasets: Annotated[list[str], Field(min_length=1), AfterValidator(_unique)] = Field(
        default=["mvtec", "visa", "realiad"], description="data sets to use"
    )
    seeds: Annotated[list[Annotated[Seed, Field(ge=0)]], Field(min_length=1), AfterValidator(_unique)] = Field(
        default=[0, 1, 2]
    )
    sources: dict[Name, SourceSettings] = Field(default={})
    downloads: dict[Name, DownloadSettings] = Field(default={}, description="what else `omniad fetch` can fetch")
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    verdicts: VerdictSettings = VerdictSettings()
    runs: dict[Name, RunChange] = Field(default={"default": RunChange()})
    tables: dict[Name, TableSettings] = Field(default={})
    figures: dict[Name, FigureSettings] = Field(default={})


class TileSettings(Section):
    """Images are cut into overlapping tiles of `data.image_size` pixels, which are not resized."""

    overlap: int = Field(default=32, ge=0, description="pixels that neighbouring tiles share; less than a tile's side")
    scale: Annotated[float, at_most(16, "larger scales show nothing new")] = Field(
        default=1.0, gt=0, description="scale of the image before it is cut; 1 is its own size"
    )


class RunSettings(Section):
    """One run, resolved: what a run folder's `config.yaml` holds."""

    dataset: Name
    run: Name
    source: SourceSettings
    data: DataSettings
    model: ModelSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    tiles: TileSettings | None = Field(default=None, description="of `omniad fit --tile`; null: images are resized")
    note: str = ""

    @property
    def pack_folder(self) -> Path:
        """Where the data set's images lie at this run's resolution, or their tiles."""
        whole = self.data.pack_folder(self.dataset)
        if self.tiles is None:
            return whole
        return whole.with_name(f"{whole.name}-overlap-{self.tiles.overlap}-scale-{self.tiles.scale:g}")

    def numbers(self) -> dict[str, dict[str, Any]]:
        """The groups `model`, `training` and `evaluation` without the settings that change no number."""
        return {
            group: getattr(self, group).model_dump(exclude=SPEED_ONLY.get(group))
            for group in ("model", "training", "evaluation")
        }
