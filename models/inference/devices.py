"""The device that networks run on, and its support for bfloat16."""

from __future__ import annotations

import torch

from simile.core.errors import BadSetting


def select_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises BadSetting if it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadSetting(f"device can't be {name!r}. Use auto, cpu or cuda.") from None
    if device.type not in ("cpu", "cuda"):
        raise BadSetting(f"device can't be {name!r}. Use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise BadSetting(f"device {name!r} is not there: torch sees {gpus} GPUs. Use --device auto.")
    if device.type == "cuda":
        # Equal losses after a resume, and the same vector for an image alone and in a batch.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # TF32 has 10 bits of precision, and is the default for convolutions
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16 itself; emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
