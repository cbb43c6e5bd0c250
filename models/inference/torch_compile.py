"""A network compiled by torch on the CPU: the fastest, once a C++ compiler has worked on it for a minute."""

from __future__ import annotations

import os
import shutil
import warnings
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from simile.core.errors import BadSetting
from simile.core.records import FloatArray

_COMPILERS = ("g++", "clang++")


class CompiledRuntime:
    """Runs a module with frozen weights in bfloat16. Raises BadSetting without a C++ compiler.

    What was compiled is kept in torch's own cache (TORCHINDUCTOR_CACHE_DIR) and makes the next start faster.
    """

    name = "compile-bf16"

    def __init__(self, module: nn.Module, sample: Tensor) -> None:
        if not any(shutil.which(name) for name in (os.environ.get("CXX", _COMPILERS[0]), *_COMPILERS)):
            raise BadSetting("torch.compile needs a C++ compiler. Install g++, or set SIMILE_RUNTIME to openvino.")
        self._lock = Lock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about itself
            self._compiled = torch.compile(module, dynamic=True, options={"freezing": True})
            for count in (len(sample), 1):  # it makes one program for a single input and one for any other number
                self.run(sample[:count].numpy())

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        with self._lock, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self._compiled(torch.from_numpy(np.require(x, np.float32, ["C", "W"])))
        return tuple(output.float().contiguous().numpy() for output in outputs)
