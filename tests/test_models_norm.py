"""Norm and SiLU in one step against PyTorch's own two, forwards and backwards."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from omniad.models.norm import EPS, NormSiLU


@pytest.mark.parametrize("layout", ["tokens", "maps"])
def test_values_and_gradients_are_those_of_two_steps(layout):
    torch.manual_seed(0)
    x = torch.randn(3, 20, 5, dtype=torch.double) * 4 + 7
    if layout == "maps":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    x.requires_grad_()
    upstream = torch.randn(3, 20, 5, dtype=torch.double)
    expected = F.silu(F.instance_norm(x.transpose(1, 2))).transpose(1, 2)
    [gradient] = torch.autograd.grad(expected, x, upstream)
    module = NormSiLU()
    for out in (module(x), module.eval()(x)):
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(torch.autograd.grad(out, x, upstream)[0], gradient)


def test_its_backward_pass_agrees_with_finite_differences():
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(NormSiLU(), torch.randn(2, 6, 3, dtype=torch.double, requires_grad=True))


def test_a_large_mean_costs_no_precision():
    torch.manual_seed(0)
    x = torch.randn(1, 4096, 2)
    shifted = NormSiLU()(x + 1000)
    torch.testing.assert_close(shifted, NormSiLU()((x + 1000).double()).float(), rtol=1e-3, atol=1e-3)


def kernel_errors(device, dtype=torch.float):
    """Largest relative error of the kernels' values and gradients, on sizes that fill their chunks and do not."""
    from omniad.models.norm_triton import KernelNormSiLU

    errors = []
    for shape in ((2, 300, 40), (1, 7, 3), (3, 128, 32), (2, 1024, 64)):
        torch.manual_seed(0)
        x, upstream = (torch.randn(shape) * 4 + 7).to(dtype), torch.randn(shape).to(dtype)
        exact = x.double().requires_grad_()
        expected = NormSiLU()(exact)
        [gradient] = torch.autograd.grad(expected, exact, upstream.double())
        placed = x.to(device).requires_grad_()
        out: torch.Tensor = KernelNormSiLU.apply(placed, EPS)  # type: ignore[assignment]
        [found] = torch.autograd.grad(out, placed, upstream.to(device))
        assert out.dtype == found.dtype == dtype
        for a, b in ((out, expected), (found, gradient)):
            errors.append(((a.detach().cpu().double() - b).norm() / b.norm()).item())
    return max(errors)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux alone")
def test_the_kernels_are_the_same_interpreted_on_a_cpu():
    """In a process of its own: Triton asks when it is imported whether to interpret."""
    code = "import torch; from tests.test_models_norm import kernel_errors as e; "
    code += "print(e('cpu'), e('cpu', torch.bfloat16))"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    single, half = map(float, answer.stdout.split())
    assert single < 1e-6
    assert half < 1e-2  # the result's rounding


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_kernels_on_a_gpu():
    assert kernel_errors("cuda") < 1e-6
