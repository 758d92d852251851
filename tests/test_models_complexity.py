"""Counts against the paper's tables, against measurements of the released code, and against fvcore itself."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
import torch

from omniad.cli import main
from omniad.config import VARIANTS, ModelSettings, Settings, load_settings
from omniad.errors import UserError
from omniad.models import build_model
from omniad.models.attention import Attention
from omniad.models.complexity import complexity, complexity_by_part
from omniad.reporting.complexity import complexity_rows, read_complexity


def released(**changes) -> ModelSettings:
    return ModelSettings(variant="released", **changes)


def only(*tables: str) -> Settings:
    settings = load_settings()
    return settings.model_copy(update={"tables": {table: settings.tables[table] for table in tables}})


def test_published_rows_are_the_released_reading():
    rows = [row for row in complexity_rows(only("table4", "table6", "table7")) if row["variant"] == "released"]
    assert len(rows) == 12
    for row in rows:
        decimals = 0 if row["row"] in ("ResNet50", "WideResNet50") else 1  # as printed
        assert row["reported_parameters_m"] == round(row["parameters"] / 1e6, decimals)
        assert row["reported_flops_g"] == round(row["macs"] / 1e9, decimals)


def test_rows_of_tables_without_printed_complexity():
    rows = complexity_rows(only("table5"))
    assert [(row["table"], row["row"], row["variant"]) for row in rows] == [
        ("table5", label, variant)
        for label in ("global", "local", "global and local")
        for variant in ("released", "equations")
    ]
    assert all(row["reported_parameters_m"] is None and row["reported_flops_g"] is None for row in rows)


def test_without_the_printed_numbers_one_line_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("omniad.reporting.complexity.PAPER_FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"^\S+other_methods\.csv: no such file$"):
        complexity_rows(only("table5"))


def test_a_table_without_printed_numbers_is_counted():
    table5 = only("table5").tables["table5"].model_copy(update={"paper": ""})
    rows = complexity_rows(only("table5").model_copy(update={"tables": {"table5": table5}}))
    assert rows == complexity_rows(only("table5"))


def test_counts_are_printed_and_written_where_both_are_asked_for(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("omniad.commands.models.project_settings", lambda: only("table5"))
    assert main(["complexity", "--json", "--out", str(tmp_path / "counts.csv")]) == 0
    printed = json.loads(capsys.readouterr().out)["rows"]
    written = read_complexity(tmp_path / "counts.csv")
    assert {(row["table"], row["row"], row["variant"]): row["macs"] / 1e9 for row in printed} == {
        key: counts["FLOPs"] for key, counts in written.items()
    }


def test_a_method_whose_library_is_missing_is_left_out_and_told(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    rows = complexity_rows(only("table1"))
    assert {row["row"] for row in rows} == {"RD4AD", "UniAD", "SimpleNet", "DeSTSeg", "RLR", "MambaAD", "Omni-AD"}
    assert "DiAD is not counted: DiAD needs the library diffusers" in caplog.text


def test_other_methods_are_the_published_ones():
    """RLR's counts are printed nowhere; DeSTSeg's FLOPs and DiAD's counts are looked into by those methods' tests."""
    rows = {row["row"]: row for row in complexity_rows(only("table1")) if row["variant"] not in VARIANTS}
    assert [row["variant"] for row in rows.values()] == [
        *("rd4ad", "uniad", "simplenet", "destseg", "diad", "rlr", "mambaad")
    ]
    assert rows["RLR"]["reported_parameters_m"] is None
    for name in rows.keys() - {"RLR", "DiAD"}:
        assert round(rows[name]["parameters"] / 1e6, 1) == rows[name]["reported_parameters_m"]
        if name != "DeSTSeg":
            assert round(rows[name]["macs"] / 1e9, 1) == rows[name]["reported_flops_g"]


@pytest.mark.parametrize("fused", [True, False])
def test_default_exactly(monkeypatch, fused):
    monkeypatch.setattr(Attention, "fused", fused)
    assert complexity_by_part(released()) == {
        "encoder": (8_170_304, 3_955_097_600),
        "neck": (1_458_304, 268_713_984),
        "decoder": (20_298_304, 6_933_479_424),
    }
    assert complexity(released()) == (29_926_912, 11_157_291_008)


@pytest.mark.parametrize(
    ("changes", "parameters_m", "macs_g"),
    [
        ({"first_attention": "q", "second_attention": "q"}, 29.927, 10.791),
        ({"first_attention": "kv", "second_attention": "kv"}, 29.927, 11.524),
        ({"first_attention": "kv", "second_attention": "q"}, 29.927, 11.157),
        ({"first_attention": "none", "second_attention": "none"}, 29.202, 47.584),
        ({"second_attention": "none"}, 29.564, 29.187),
        ({"branches": "global"}, 23.505, 9.078),
        ({"branches": "local"}, 19.855, 7.360),
        ({"projection": "none"}, 29.927, 10.019),
    ],
)
def test_ablations_on_the_released_block(changes, parameters_m, macs_g):
    parameters, macs = complexity(released(**changes))
    assert parameters / 1e6 == pytest.approx(parameters_m, abs=5.1e-4)  # values given to three decimals
    assert macs / 1e9 == pytest.approx(macs_g, abs=6e-4)


def test_equations_add_only_the_trained_projection():
    # Per block: two W^O of D^2 + D parameters instead of 16 T biases; applied to T and to N tokens.
    blocks = [(512, 64, 3), (256, 256, 9), (128, 1024, 9), (64, 4096, 7)]  # D, N, depth
    parameters = sum(depth * (2 * (d * d + d) - 16 * 64) for d, _, depth in blocks)
    macs = sum(depth * d * d * (64 + n) for d, n, depth in blocks)
    base_parameters, base_macs = complexity(released(projection="none"))
    assert complexity(ModelSettings()) == (base_parameters + parameters, base_macs + macs)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")  # fvcore's
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variant": "released"},
        {"variant": "released", "projection": "none", "first_attention": "kv", "second_attention": "q"},
        {"first_attention": "none", "second_attention": "none"},
        {"encoder": "wide_resnet50_2", "encoder_width": 8, "branches": "local"},
        {"encoder": "efficientnet_lite0", "widths": [64, 48, 32, 16], "standardise": True},
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_agrees_with_fvcore(monkeypatch, changes, fused):
    from fvcore.nn import FlopCountAnalysis  # here, because the import warns too
    from fvcore.nn.jit_handles import get_shape

    def fused_attention(inputs, outputs):
        shapes: Any = [get_shape(tensor) for tensor in inputs[:2]]
        (b, h, n, d), (_, _, s, _) = shapes
        return 2 * b * h * n * s * d

    monkeypatch.setattr(Attention, "fused", fused)
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    settings = ModelSettings(**{"encoder_width": 16, "depths": [1, 2, 1, 1], "tokens": 16, **changes})
    model = build_model(settings).eval()
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, 64, 64))
    analysis.set_op_handle("aten::scaled_dot_product_attention", fused_attention)
    assert complexity(settings, 64) == (sum(p.numel() for p in model.parameters()), analysis.total())


def macs_at(settings: ModelSettings) -> list[int]:
    """At three image sizes whose pixel counts are 1 : 4 : 9."""
    return [complexity(settings, 64 * side)[1] for side in (1, 2, 3)]


@pytest.mark.parametrize(
    ("variant", "first", "second"),
    [("released", "q", "kv"), *(("equations", first, second) for first in ("q", "kv") for second in ("q", "kv"))],
)
def test_cost_is_linear_in_the_input_with_learnable_tokens(variant, first, second):
    settings = ModelSettings(variant=variant, depths=[1, 1, 1, 1], first_attention=first, second_attention=second)
    one, four, nine = macs_at(settings)
    assert (four - one) * 5 == (nine - four) * 3


def test_cost_is_quadratic_without_learnable_tokens():
    settings = ModelSettings(depths=[1, 1, 1, 1], first_attention="none", second_attention="none")
    one, four, nine = macs_at(settings)
    # m = a + b n + c n^2, n = 1, 4, 9; an attention has 2 N^2 D, N = 4, 16, 64, 256 and D = 512 .. 64 at 64 pixels.
    curvature = 2 * 2 * (4**2 * 512 + 16**2 * 256 + 64**2 * 128 + 256**2 * 64)
    assert (nine - four) / 5 - (four - one) / 3 == curvature * ((9 + 4) - (4 + 1))
