"""Whatever weights and checkpoints hold: they become the model's, or are refused in one line, and no code runs."""

import io
from pathlib import Path

import pytest
import safetensors.torch
import torch
from detector_runs import make_run

from omniad.errors import UserError
from omniad.models import load_model
from omniad.models.encoder import check_entries, read_entries
from omniad.models.import_released import infer_settings


@pytest.fixture
def place(tmp_path) -> Path:
    """A run folder with random weights."""
    return make_run(tmp_path / "runs/parts/untrained/seed0")


def tensors(place: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(place / "model.safetensors")


KINDS = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]
KINDS += [getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32") if hasattr(torch, name)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weights_of_another_type_become_the_models_or_are_refused(place, kind):
    weights = {name: value.to(kind) if value.is_floating_point() else value for name, value in tensors(place).items()}
    safetensors.torch.save_file(weights, place / "model.safetensors")
    if kind.is_floating_point:
        assert {value.dtype for value in load_model(place).parameters()} == {torch.float32}
    else:
        with pytest.raises(UserError, match="not numbers of the right kind"):
            load_model(place)


def test_weights_that_are_not_finite_are_refused(place):
    weights = tensors(place)
    next(value for value in weights.values() if value.is_floating_point()).view(-1)[0] = torch.nan
    safetensors.torch.save_file(weights, place / "model.safetensors")
    with pytest.raises(UserError, match="1 not finite"):
        load_model(place)


@pytest.mark.parametrize(
    "text",
    ["5", "[a]", "{", "a: b: c", "- " * 3000, "[" * 3000, "&a [*a]", "heads: !!python/name:os.system", "x" * 10**5],
)
def test_metadata_that_is_not_ours_is_refused(place, text):
    weights = tensors(place)
    safetensors.torch.save_file(weights, place / "model.safetensors", metadata={"model": text})
    with pytest.raises(UserError, match=r"model\.safetensors: its metadata") as error:
        load_model(place)
    assert "\n" not in str(error.value)
    safetensors.torch.save_file(weights, place / "model.safetensors", metadata={"format": "pt"})  # another program's
    load_model(place)


class Code:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.ones(2)},
        {"net": {1: torch.ones(2)}},
        {"net": {"a": 5}},
        {("a", "b"): torch.ones(2)},
        [torch.ones(2)],
        torch.ones(2),
        {"a": torch.ones(2).to_sparse()},
        {"a": Code()},
        {"net": Code()},
        None,
        "text",
    ],
    ids=lambda content: type(content).__name__,
)
def test_checkpoints_of_other_content(place, content, capsys):
    torch.save(content, place / "net.pth")
    with pytest.raises(UserError) as error:
        infer_settings(read_entries(place / "net.pth"), "none", "net.pth")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["sparse", "meta", "expanded"])
def test_tensors_that_hold_no_plain_numbers_are_refused(place, layout):
    weights: dict[str, torch.Tensor] = tensors(place)
    name = next(name for name, value in weights.items() if value.ndim == 4)
    shape = weights[name].shape
    weights[name] = {
        "sparse": lambda: weights[name].to_sparse(),
        "meta": lambda: torch.empty(shape, device="meta"),
        "expanded": lambda: torch.zeros(()).expand(10**9, 10**9),
    }[layout]()
    buffer = io.BytesIO()
    torch.save(weights, buffer)

    (place / "net.pth").write_bytes(buffer.getvalue())
    with pytest.raises(UserError):
        check_entries(load_model(place).state_dict(), read_entries(place / "net.pth"), "net.pth")
