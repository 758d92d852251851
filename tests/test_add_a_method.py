"""The method that docs/add-a-method.md adds in one file is a method: it passes the conformance suite."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from conformance import CHECKS, Case

from omniad.config import ModelSettings
from omniad.models.checkpoint import METHODS

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The document's file under the name of another method, because the document's own is not in `MethodName`."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path_factory.mktemp("method") / "narrow.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location("narrow", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "rd4ad", module.Narrow)
        model = {"method": "rd4ad", "encoder": "resnet18", "encoder_width": 8}
        yield Case(model, {"learning_rate": 0.02}, steps=100)


def test_it_is_the_documents(case):
    assert type(case.build()).__name__ == "Narrow"
    assert '"encoder_width": 8}, {"learning_rate": 0.02}, steps=100)' in DOCUMENT.read_text(encoding="utf-8")
    assert case.settings == ModelSettings(method="rd4ad", encoder="resnet18", encoder_width=8)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_it_passes(case, check, tmp_path):
    check(case, tmp_path)
