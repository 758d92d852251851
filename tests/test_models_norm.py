"""Norm and SiLU in one step against PyTorch's own two, forwards and backwards."""

import pytest
import torch
import torch.nn.functional as F

from omniad.models.norm import NormSiLU


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
