"""Presets of `omniad fit`: what a detector is made of, and for how long it is trained. Each is a file in presets/."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from omniad.config import Section, Settings, known, load_settings, merge, read_yaml, validate

FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))
DEFAULT = "fast"
METHOD_NAMES = {  # as their authors write them
    "omni-ad": "Omni-AD",
    "rd4ad": "RD4AD",
    "uniad": "UniAD",
    "simplenet": "SimpleNet",
    "mambaad": "MambaAD",
    "rlr": "RLR",
    "destseg": "DeSTSeg",
    "diad": "DiAD",
    "patchcore": "PatchCore",
    "padim": "PaDiM",
}


class Preset(Section):
    """What one file in presets/ holds."""

    about: str = Field(description="what it is, in a few words that `omniad fit` prints")
    steps: int = Field(ge=1, description="approximate number of training steps; ignored by methods that don't train")
    settings: dict[str, Any] = Field(description="what it changes in the defaults")
    methods: dict[str, dict[str, Any]] = Field(description="what each method changes in these, by its name")


class Chosen(NamedTuple):
    """A preset with a method, and the files that change them."""

    settings: Settings
    steps: int
    about: str


def choose(preset: str = DEFAULT, method: str = "", *overlays: str | Path) -> Chosen:
    """The settings of a preset and of a method in it, its own by default, with overlays on them.

    Raises:
        UserError: there is no such preset, it has no such method, or what `load_settings` raises.
    """
    file = FOLDER / f"{known(preset, PRESETS, 'preset')}.yaml"
    values = validate(Preset, read_yaml(file), file.name)
    changes = values.settings
    if method:
        of_method = values.methods[known(method, values.methods, f"method of the preset '{preset}'")]
        changes = merge(merge(changes, {"model": {"method": method}}), of_method)
    settings = load_settings(*overlays, under=(file.name, changes))
    told = METHOD_NAMES.get(method, method)
    own = not method or method == Settings.model_validate(values.settings).model.method
    return Chosen(settings, values.steps, values.about if own else f"{told} as in the preset '{preset}'")
