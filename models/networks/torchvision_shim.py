"""Makes `import torchvision` work beside a CPU-only torch whose wheel lacks torchvision's compiled operators.

torchvision registers shape functions for `torchvision::nms` and `torchvision::qnms` on import, and fails when
the compiled library that defines them does not load. Declaring the two operators first is enough for models,
transforms, datasets and utils (not for torchvision.io's decoders, which simile does not use).
"""

from __future__ import annotations

from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """The torchvision package, with its operators declared where they are missing."""
    try:
        import torchvision  # costs a second; only datasets need it  # noqa: PLC0415
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_operators()
        import torchvision  # noqa: PLC0415
    return torchvision  # type: ignore[no-any-return]


def _declare_operators() -> None:
    global _library  # torch forgets the definitions when the Library object dies  # noqa: PLW0603
    _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        _library.define(f"{name}{_SIGNATURE}")  # type: ignore[no-untyped-call]
