"""Where networks run, and in which precision they train."""

from __future__ import annotations

import torch

from simile.core.errors import BadSetting


def select_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises BadSetting where it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadSetting(f"device can't be {name!r}. Use auto, cpu or cuda.") from None
    if device.type not in ("cpu", "cuda"):
        raise BadSetting(f"device can't be {name!r}. Use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadSetting(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs. Use --device auto."
        )
    if device.type == "cuda":
        _make_deterministic()
    return device


def _make_deterministic() -> None:
    """Equal losses after a resume, and the same vector for a picture alone and in a batch."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # TF32 keeps 10 bits, and convolutions use it by default


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
