"""Colour profiles: what a profile means, and pixels converted to sRGB for display.

A profile that can't be used is ignored, as viewers do. Embeddings are computed from the numbers as they are stored, so
that the vectors of a home stay valid.
"""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from simile.images.formats import Pixels

MAX_PROFILE_BYTES = 8 << 20  # of the largest printer profiles
LATTICE_STEPS = 9  # colours per channel by which profiles are compared
SAME_COLOUR_LEVELS = 3  # of 255: sRGB profiles of different makers differ by less
_MODES = ("RGB", "L", "CMYK")


@lru_cache(maxsize=1)
def _get_srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=64)
def _make_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a profile for a mode to sRGB; None if there is none."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.buildTransform(source, _get_srgb(), mode, "RGB", intent, ImageCms.Flags.BLACKPOINTCOMPENSATION)
    except Exception:  # noqa: BLE001  # a damaged profile raises anything; viewers ignore it
        return None


def get_profile(im: Image.Image) -> bytes:
    """Return the profile of an opened image; b"" without a usable one."""
    profile = im.info.get("icc_profile") or b""
    return profile if isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES else b""


def get_profile_mode(im: Image.Image) -> str:
    """Return the mode that a profile of an opened image is for: that of its colours, without transparency."""
    if im.mode in ("P", "PA", "RGBA"):
        return "RGB"
    return "L" if im.mode in ("LA", "1") or im.mode[0] in "IF" else im.mode


def judge_profile(im: Image.Image) -> str:
    """Return what the profile of an opened image means for its pixels, as `ImageQuality.profile`."""
    profile, mode = get_profile(im), get_profile_mode(im)
    if not profile or mode not in _MODES:
        return ""
    if _make_transform(profile, mode) is None:
        return "unusable"
    return "other" if describe_profile(profile, mode) else ""


def convert_to_srgb(im: Image.Image, profile: bytes) -> Image.Image:
    """Return the image in sRGB, with its transparency; the image itself if the profile does not apply to it."""
    if not profile:
        return im
    if im.mode in ("P", "PA", "LA", "RGBA") or im.has_transparency_data:
        im = im.convert("RGBA")
        opaque = Image.merge("RGB", im.split()[:3])
        converted = _apply(opaque, profile)
        converted.putalpha(im.getchannel("A"))
        return converted
    return _apply(im, profile)


def _apply(im: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image without transparency; grey profiles also apply to grey pixels that were stored as RGB."""
    if im.mode not in _MODES or describe_profile(profile, im.mode) == "":
        return im
    transform = _make_transform(profile, im.mode)
    if transform is None:
        return im
    return ImageCms.applyTransform(im, transform) or im


@lru_cache(maxsize=256)
def describe_profile(profile: bytes, mode: str = "RGB") -> str:
    """Return what a profile means for the pixels of a mode: a hash of converted colours; "" for sRGB and for none.

    Two profiles of the same colours are the same, whatever their texts and dates are.
    """
    if not profile or mode not in _MODES:
        return ""
    transform = _make_transform(profile, mode)
    if transform is None:
        return ""
    lattice = _make_lattice(mode)
    converted: Pixels = np.asarray(ImageCms.applyTransform(lattice, transform)).astype(np.int16)
    displayed = np.asarray(lattice.convert("RGB")).astype(np.int16)
    if mode != "CMYK" and int(np.abs(converted - displayed).max()) <= SAME_COLOUR_LEVELS:
        return ""
    return hashlib.sha256(converted.astype("<i2").tobytes()).hexdigest()[:16]


@lru_cache(maxsize=len(_MODES))
def _make_lattice(mode: str) -> Image.Image:
    """Return an image of a mode with colours spread over all of its values."""
    levels = np.linspace(0, 255, LATTICE_STEPS).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    channels = len(mode)
    grid = np.stack(np.meshgrid(*[levels] * channels, indexing="ij"), axis=-1).reshape(1, -1, channels)
    return Image.fromarray(np.ascontiguousarray(grid), mode)
