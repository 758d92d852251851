"""Every method of `build_model` passes the conformance suite by being listed here."""

from __future__ import annotations

import pytest
from conformance import Case, checks_of

from omniad.models.checkpoint import METHODS

SMALL = {"encoder": "resnet18", "encoder_width": 8, "depths": [1, 1, 1, 1], "tokens": 4}
CASES = {
    "omni-ad": Case(SMALL, {"learning_rate": 0.003}, steps=150),
    "rd4ad": Case(
        {"method": "rd4ad", "encoder": "wide_resnet50_2", "encoder_width": 8}, {"learning_rate": 0.005}, steps=30
    ),
    "uniad": Case(
        {"method": "uniad", "encoder": "tf_efficientnet_b4", "encoder_width": 16}, {"learning_rate": 0.0005}, steps=25
    ),
    "simplenet": Case(
        {"method": "simplenet", "encoder": "wide_resnet50_2", "encoder_width": 16},
        {"learning_rate": 0.001},
        encoder_gain=0.7,
        contrast=0.5,
    ),
    "mambaad": Case({**SMALL, "method": "mambaad"}, {"learning_rate": 0.005}, steps=40),
    "rlr": Case(
        {"method": "rlr", "encoder": "tf_efficientnet_b6", "encoder_width": 8, "jitter": 4.0},
        {"learning_rate": 0.0003},
        steps=15,
    ),
    "destseg": Case(
        {"method": "destseg", "encoder": "resnet18", "encoder_width": 8}, {"learning_rate": 0.4}, steps=200
    ),
    "diad": Case(
        {"method": "diad", "encoder": "wide_resnet50_2", "encoder_width": 8},
        {"learning_rate": 0.001, "decay_at": 0.5},
        steps=50,
        contrast=0.7,
    ),
    "dinomaly": Case(
        {"method": "dinomaly", "encoder": "dinov2_vitb14_reg", "encoder_width": 8, "jitter": 0.2},
        {"learning_rate": 0.002, "clip_norm": 0.1},
        steps=60,
    ),
    "patchcore": Case({"method": "patchcore", "encoder": "resnet18", "encoder_width": 8, "memory": 300}),
    "padim": Case({"method": "padim", "encoder": "resnet18", "encoder_width": 8}),
    "patch-memory": Case({"method": "patch-memory", "encoder": "efficientnet_lite0", "memory": 100}),
}


SLOW = ("diad", "mambaad")  # whichever of their checks comes first trains the model


def test_every_method_is_listed():
    assert CASES.keys() == METHODS.keys()


@pytest.mark.parametrize(
    ("method", "check"),
    [
        pytest.param(
            method,
            check,
            id=f"{method}-{check.__name__.removeprefix('check_')}",
            marks=[pytest.mark.slow] if method in SLOW else [],
        )
        for method, case in CASES.items()
        for check in checks_of(case)
    ],
)
def test_method(method, check, tmp_path):
    check(CASES[method], tmp_path)
