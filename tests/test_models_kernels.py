"""Kernels of our own against PyTorch's operations in double precision, forwards and backwards; when they are used."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from omniad.models import kernels
from omniad.models.attention import eager_attention
from omniad.models.norm import EPS, NormSiLU
from omniad.models.omni_block import LocalBranch, tokens

CASES = {
    # Sizes that fill their chunks of positions and channels, and sizes that do not.
    "norm": [(2, 300, 40), (1, 7, 3), (3, 128, 32)],
    "depthwise": [(2, 5, 7, 40), (1, 1, 3, 3), (1, 16, 8, 32)],
    # Images, heads, queries, keys, channels of a head: either side is short; several blocks and chunks; all filled.
    "attention": [(2, 2, 70, 5, 3), (2, 2, 5, 70, 3), (1, 1, 600, 16, 8), (1, 2, 16, 1100, 8), (1, 1, 64, 64, 16)],
}


def norm_errors(device, dtype):
    from omniad.models.norm_triton import KernelNormSiLU

    for shape in CASES["norm"]:
        torch.manual_seed(0)
        x, upstream = (torch.randn(shape) * 4 + 7).to(dtype), torch.randn(shape).to(dtype)
        exact = x.double().requires_grad_()
        expected = NormSiLU()(exact)
        placed = x.to(device).requires_grad_()
        out: torch.Tensor = KernelNormSiLU.apply(placed, EPS)  # type: ignore[assignment]
        assert out.dtype == dtype
        expected.backward(upstream.double())
        out.backward(upstream.to(device))
        yield from _errors([out, placed.grad], [expected, exact.grad])


def depthwise_errors(device, dtype):
    from omniad.models.depthwise_triton import KernelDepthwisePair

    for b, h, w, d in CASES["depthwise"]:
        torch.manual_seed(0)
        x, *upstream = (torch.randn(b, h * w, d).to(dtype) for _ in range(3))
        weights = torch.randn(d, 1, 3, 3), torch.randn(d), torch.randn(d, 1, 5, 5), torch.randn(d)
        exact, placed = (
            [value.to(kind).to(place).requires_grad_() for value in (x, *weights)]
            for kind, place in ((torch.double, "cpu"), (None, device))
        )
        maps = exact[0].transpose(1, 2).unflatten(2, (h, w))
        expected = [tokens(F.conv2d(maps, exact[k], exact[k + 1], padding=k // 2 + 1, groups=d)) for k in (1, 3)]
        found = KernelDepthwisePair.apply(placed[0], (h, w), dtype, *placed[1:])
        for out, oracle, gradient in zip(found, expected, upstream, strict=True):
            assert out.dtype == dtype
            out.backward(gradient.to(device), retain_graph=True)
            oracle.backward(gradient.double(), retain_graph=True)
        yield from _errors([*found, *(value.grad for value in placed)], [*expected, *(value.grad for value in exact)])


def attention_errors(device, dtype):
    from omniad.models.attention_triton import KernelAttention

    for b, h, queries, keys, d in CASES["attention"]:
        torch.manual_seed(0)
        # As linear layers give them: a position's heads side by side.
        inputs = [torch.randn(b, n, h, d).to(dtype).transpose(1, 2) for n in (queries, keys, keys, queries)]
        exact, placed = (
            [value.to(kind).to(place).requires_grad_() for value in inputs[:3]]
            for kind, place in ((torch.double, "cpu"), (dtype, device))
        )
        expected = eager_attention(*exact)
        out: torch.Tensor = KernelAttention.apply(*placed)  # type: ignore[assignment]
        assert out.dtype == dtype
        expected.backward(inputs[3].double())
        out.backward(inputs[3].to(device))
        yield from _errors([out, *(value.grad for value in placed)], [expected, *(value.grad for value in exact)])


def _errors(found, expected):
    for a, b in zip(found, expected, strict=True):
        yield ((a.detach().cpu().double() - b).norm() / b.norm()).item()


def largest_errors(device):
    """In single precision, and with bf16 inputs."""
    for dtype in (torch.float, torch.bfloat16):
        yield max(
            error for check in (norm_errors, depthwise_errors, attention_errors) for error in check(device, dtype)
        )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux alone")
def test_interpreted_on_a_cpu():
    """In a process of its own: Triton asks when it is imported whether to interpret."""
    code = "from tests.test_models_kernels import largest_errors as e; print(*e('cpu'))"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 0, answer.stderr
    single, half = map(float, answer.stdout.split())
    assert single < 1e-6
    assert half < 1e-2  # the results' rounding


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    single, half = largest_errors("cuda")
    assert single < 1e-5 and half < 1e-2


def test_elsewhere_pytorchs_operations_are_used(monkeypatch):
    assert not kernels.use_kernels(torch.zeros(1))
    kernels.lacking.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kernels.lacking() == "Triton"
    kernels.lacking.cache_clear()
    x = torch.randn(1, 4, 6, 6)
    branch = LocalBranch(4)
    for ours, conv in zip(branch._depthwise(x), (branch.conv3[0], branch.conv5[0]), strict=True):
        torch.testing.assert_close(ours, conv(x).flatten(2).transpose(1, 2))
