"""Encoders of installed packages: entry points of the group `simile.encoders`.

An entry point is a function without arguments that returns an `EncoderPlugin`. docs/encoders.md has an example.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from threading import Lock
from typing import Any, Protocol

import numpy as np

from simile.core.errors import BadSetting, EncoderMismatch
from simile.core.records import FloatArray
from simile.models.networks.external import ExternalModel

PLUGIN_GROUP = "simile.encoders"


class EncoderPlugin(Protocol):
    """What a plug-in gives.

    Attributes:
        identity: Text that changes whenever the vectors change, such as a hash of the weights.
        preprocess: A name or the values as for `simile encoders add --preprocess`.
    """

    identity: str
    preprocess: str | Mapping[str, Any]

    def encode(self, images: FloatArray) -> FloatArray:
        """Return vectors (n, d) of normalised images (n, C, S, S)."""
        ...


def load_plugin(name: str) -> EncoderPlugin:
    """Return the plug-in of this name. Raises BadSetting if it is not installed or can't be used."""
    found = {entry.name: entry for entry in entry_points(group=PLUGIN_GROUP)}
    if name not in found:
        similar = difflib.get_close_matches(name, found, n=1) or sorted(found)
        known = f"Installed: {', '.join(similar)}." if similar else "No installed package has one."
        raise BadSetting(f"There is no encoder plug-in {name!r} (entry points of {PLUGIN_GROUP}). {known}")
    try:
        plugin: EncoderPlugin = found[name].load()()
        is_usable = bool(plugin.identity) and isinstance(plugin.identity, str) and callable(plugin.encode)
    except Exception as error:  # a package of another author
        raise BadSetting(f"Encoder plug-in {name} can't be loaded ({type(error).__name__}: {error}).") from error
    if not is_usable or not isinstance(plugin.preprocess, str | Mapping):
        raise BadSetting(
            f"Encoder plug-in {name} needs identity, preprocess and encode. docs/encoders.md describes them."
        )
    return plugin


class PluginRuntime:
    """Runs a plug-in, one batch at a time. Raises EncoderMismatch if it is not the one that was added."""

    def __init__(self, model: ExternalModel) -> None:
        self.name = f"plugin-{model.entry}"
        self._plugin = load_plugin(model.entry)
        self._lock = Lock()
        if self._plugin.identity.encode() != model.get_bytes():
            raise EncoderMismatch(
                f"Encoder plug-in {model.entry} has changed: its vectors can't be compared with those in the home. "
                f"Add it again with `simile encoders add plugin:{model.entry} --name NAME`, or install its old version."
            )

    def run(self, x: FloatArray) -> tuple[FloatArray, ...]:
        """Return the vectors (n, d)."""
        with self._lock:
            return (np.asarray(self._plugin.encode(x), np.float32),)
