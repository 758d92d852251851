"""What the metrics' compiled loops need of a machine, and what they leave alone."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from omniad.errors import UserError
from omniad.metrics import class_metrics


def test_the_metrics_leave_torch_s_threads_alone():
    """numba's OpenMP pool would set them, once a process, and a model's last digits depend on them."""
    code = (
        "import numpy, torch; from omniad.metrics import class_metrics;"
        "class_metrics(numpy.eye(4)[None], numpy.eye(4)[None]); print(torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "1"


def test_without_a_place_for_the_cache_each_process_compiles(monkeypatch):
    """The package's folder, the user's cache and NUMBA_CACHE_DIR all out of reach: numba itself gives up then."""
    from omniad.metrics.kernels import compiled

    def refuse(self):
        raise PermissionError

    def square(x):
        return x * x

    monkeypatch.setattr("numba.core.caching._CacheLocator.ensure_cache_path", refuse)
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(square)
    assert compiled(square)(3) == 9


def test_without_numba_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "omniad.metrics.counts", None)  # as if its imports failed
    with pytest.raises(UserError, match="need numba, but importing it fails"):
        class_metrics(np.eye(4)[None], np.eye(4)[None])


def test_where_numba_cannot_compile_there_is_one_line(monkeypatch):
    from numba.core.errors import LoweringError

    from omniad.metrics import kernels

    def fail(*arguments):
        raise LoweringError("no such target\nand much more")

    monkeypatch.setattr(kernels, "find_anomalous", fail)
    with pytest.raises(UserError, match="numba can't compile the metrics here: no such target;"):
        class_metrics(np.eye(4)[None], np.eye(4)[None])


def test_metrics_load_no_torch():
    code = "import sys, omniad.metrics; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
