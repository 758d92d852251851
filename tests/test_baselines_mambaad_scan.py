"""MambaAD's scan: the recurrence, in chunks and in the kernel, along the Hilbert curve in eight directions."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from omniad.models.baselines.hilbert import hilbert_order
from omniad.models.baselines.mambaad import HSSBlock, scan_orders
from omniad.models.baselines.selective_scan import chunked_scan, has_kernel, scan_in_orders
from omniad.models.kernels import lacking

ROOT = Path(__file__).parents[1]


def sequential(u, delta, a, b, c):
    """The recurrence, one step after the other."""
    state, outputs = torch.zeros(*u.shape[:3], a.shape[-1], dtype=u.dtype), []
    for t in range(u.shape[-1]):
        step = F.softplus(delta[..., t])[..., None]
        state = torch.exp(step * a) * state + step * b[:, :, None, :, t] * u[..., t, None]
        outputs.append((state * c[:, :, None, :, t]).sum(-1))
    return torch.stack(outputs, dim=-1)


def scan_inputs(length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4, length), (2, 3, 4, length), (3, 4, 5), (2, 3, 5, length), (2, 3, 5, length)]
    values = [torch.randn(*shape, dtype=torch.double, generator=generator) for shape in shapes]
    values[2] = -values[2].exp()
    return [value.requires_grad_() for value in values]


@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (4, 4), (13, 4), (13, 1), (13, 64), (40, 7)])
def test_chunked_scan_is_the_recurrence_and_so_is_its_gradient(length, chunk):
    inputs = scan_inputs(length)
    expected, found = sequential(*inputs), chunked_scan(*inputs, chunk=chunk)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    slow = torch.autograd.grad((expected * weights).sum(), inputs)
    fast = torch.autograd.grad((found * weights).sum(), inputs)
    torch.testing.assert_close(fast, slow)


def test_scan_passes_gradcheck_and_holds_over_thousands_of_steps():
    assert torch.autograd.gradcheck(functools.partial(chunked_scan, chunk=2), scan_inputs(5))
    long = [value.detach().float() for value in scan_inputs(4096)]
    torch.testing.assert_close(chunked_scan(*long, chunk=64), sequential(*long), rtol=1e-3, atol=1e-4)


def kernel_errors(arguments: str, **environment: str) -> list[float]:
    """What `scan_errors` of benchmarks/scan.py finds, in a process of its own."""
    pytest.importorskip("triton", reason="Triton is for Linux alone")
    code = f"""
from omniad.models.baselines import selective_scan_triton as kernel
from scan import scan_errors
for row in scan_errors({arguments}):
    print(*list(row.values())[1:])
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [float(error) for error in done.stdout.split()]


def test_triton_kernel_is_the_recurrence_and_so_is_its_gradient():
    """Interpreted on the CPU, which Triton must be asked for before it is imported; 13 steps are two turns of 8."""
    errors = kernel_errors("'cpu', [(2, 2, 13, 3, 4), (1, 1, 1, 1, 1)]", TRITON_INTERPRET="1")
    assert len(errors) == 2 * 6
    assert max(errors) < 1e-5  # single precision


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_triton_kernel_on_a_gpu():
    assert max(kernel_errors("'cuda'")) < 1e-5


def test_scan_without_triton_or_a_compiler_is_plain_pytorch_and_says_so(monkeypatch, caplog):
    for missing, reason in [("find_spec", "Triton"), ("which", "C compiler")]:
        has_kernel.cache_clear()
        lacking.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr("importlib.util.find_spec", lambda _, m=missing: None if m == "find_spec" else object())
            patch.setattr("shutil.which", lambda _: None)
            assert not has_kernel()
        assert reason in caplog.text
        caplog.clear()
    has_kernel.cache_clear()
    lacking.cache_clear()


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_hilbert_curve_visits_neighbour_after_neighbour_and_quadrant_after_quadrant(side):
    order = hilbert_order(side, side)
    assert sorted(order.tolist()) == list(range(side * side))
    rows, columns = order // side, order % side
    assert ((rows.diff().abs() + columns.diff().abs()) == 1).all()
    for block in (2, 4):
        if side > block:
            parts = (rows // block * side + columns // block).view(-1, block * block)
            assert (parts == parts[:, :1]).all()


def test_other_grids_keep_the_order_of_the_larger_curve():
    full = [(p // 8, p % 8) for p in hilbert_order(8, 8).tolist()]
    assert [(p // 6, p % 6) for p in hilbert_order(5, 6).tolist()] == [(r, c) for r, c in full if r < 5 and c < 6]


def test_eight_directions_of_which_four_are_reversals():
    orders = scan_orders(4, 4)
    assert len({tuple(order.tolist()) for order in orders}) == 6  # a square's curve backwards is its mirror image
    assert all(sorted(order.tolist()) == list(range(16)) for order in orders)
    assert torch.equal(orders[4:], orders[:4].flip(1))
    assert torch.equal(orders[1] % 4 * 4 + orders[1] // 4, orders[0])  # the curve on the transposed grid


def test_scans_in_orders_are_those_of_inputs_put_in_order_by_hand():
    orders = torch.stack([torch.randperm(6) for _ in range(3)])
    x, delta, bias, a, bc = (
        torch.randn(*s).double() for s in [(2, 6, 4), (3, 2, 6, 4), (3, 4), (3, 4, 5), (2, 6, 3, 10)]
    )
    expected = torch.zeros(2, 6, 4, dtype=torch.double)
    for k, order in enumerate(orders):
        u, steps = x[:, order].mT[:, None], (delta[k][:, order] + bias[k]).mT[:, None]  # (B, 1, D, L)
        b, c = bc[:, order, k].mT[:, None].split(5, dim=2)
        expected[:, order] += sequential(u, steps, -a[k].exp()[None], b, c)[:, 0].mT
    torch.testing.assert_close(scan_in_orders(x, delta, bias, -a.exp(), bc, orders), expected)


def test_a_block_scans_in_eight_directions_with_parameters_of_their_own():
    """Literally as Mamba is written: put in order, project, scan, add D u, put back."""
    block = HSSBlock(8, 0.0).double()
    with torch.no_grad():
        block.skip.uniform_()
    x = torch.randn(2, 4, 6, 16).double()
    expected = torch.zeros(2, 24, 16, dtype=torch.double)
    for k, order in enumerate(scan_orders(4, 6)):
        u = x.flatten(1, 2)[:, order].mT  # (B, D, L)
        step, b, c = (block.parameters_of_steps[k] @ u).split([1, 16, 16], dim=1)
        delta = block.step_weight[k] @ step + block.step_bias[k][:, None]
        a = -block.log_decay[k].exp()[None]
        y = sequential(u[:, None], delta[:, None], a, b[:, None], c[:, None])[:, 0]
        expected[:, order] += (y + block.skip.view(8, -1)[k][:, None] * u).mT
    torch.testing.assert_close(block._scan(x).flatten(1, 2), expected)
