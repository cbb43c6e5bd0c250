"""The text tower of an external encoder: texts to vectors that are compared with those of images.

Two files in the encoder's folder: text.onnx, a graph from token ids to one vector for each text, and
tokenizer.json, in the format of the package tokenizers (an extra). The fingerprint of the encoder does not cover them,
because the vectors of images do not depend on them; encoder.json has their hashes.

    inputs     ids of the tokens, (n, length); optional: a mask, segment ids (all 0), positions
    length     that of the graph, else of the tokenizer file, else declared
    padding    to this length if the graph has a fixed length or no mask; texts run one by one, so else there is none
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from simile.core.errors import BadSetting, CheckpointDamaged, NotFinite
from simile.core.records import FloatArray
from simile.models.external.onnx_file import OnnxInterface, OnnxValue, read_onnx
from simile.models.external.runtimes import get_first_line
from simile.models.inference.engines import OpenvinoModel, shared_core

TEXT_GRAPH_FILE, TOKENIZER_FILE = "text.onnx", "tokenizer.json"
TEXT_FILES = (TEXT_GRAPH_FILE, TOKENIZER_FILE)
MAX_TOKENIZER_BYTES = 100_000_000
MAX_CONTEXT = 4096
MAX_REPEAT_DIFFERENCE = 1e-5  # of two runs, relative to the largest value
EMBEDDING_OUTPUT = "text_embeds"  # chosen if there are several outputs: the name of every exporter for the projection
_INTEGERS = {6: np.int32, 7: np.int64}  # as ONNX numbers element types
_PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>")
_SAMPLE_TEXTS = ("a photo of a dog", "red", "two people at a table, in the evening")
_NO_TOKENIZERS = "A text tower needs the package tokenizers: pip install 'simile[text]'."

InputRole = Literal["ids", "mask", "zeros", "positions"]


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """The files of a text tower that is to be added, with the declared options; None: as the files say."""

    graph: str
    tokenizer: str
    output: str | None = None
    context: int | None = None
    pad_id: int | None = None
    lowercase: bool = False


@dataclass(frozen=True, kw_only=True)
class TextDescription:
    """How a text becomes the inputs of the graph, as stored in encoder.json.

    Attributes:
        output: The output with the vector.
        context: The largest number of tokens; longer texts are cut.
        pad_id: Token that fills a text up to `context`; None if texts are not filled up.
        lowercase: Whether texts are put into small letters before the tokenizer, which may do more.
        sha256: Hash of each file by its name.
    """

    output: str
    context: int
    pad_id: int | None
    lowercase: bool
    sha256: dict[str, str]


class TextTower:
    """Encodes texts. Thread-safe."""

    def __init__(self, graph: bytes, tokenizer: bytes, description: TextDescription) -> None:
        """Load both files. Raises BadSetting if tokenizers is not installed or a file can't be used."""
        self._description = description
        interface = read_onnx(graph, "The text tower")
        self._roles = _assign_roles(interface)
        self._types = {value.name: _INTEGERS[value.element_type] for value in interface.inputs}
        self._tokenizer = _load_tokenizer(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(description.context)
        try:
            model = shared_core().read_model(graph)
            names = [port.get_names() for port in model.outputs]
            position = next(number for number, known in enumerate(names) if description.output in known)
            self._model = OpenvinoModel(model, output=position)
        except Exception as error:  # engines raise errors of any type
            raise BadSetting(f"OpenVINO can't load the text tower ({get_first_line(error)}).") from error
        self._lock = Lock()  # a tokenizer is not documented as thread-safe

    @classmethod
    def load(cls, folder: Path, stored: dict[str, Any]) -> TextTower:
        """Load the text tower of an encoder's folder. Raises BadSetting, CheckpointDamaged."""
        description = TextDescription(**stored)
        contents: list[bytes] = []
        for name in TEXT_FILES:
            try:
                contents.append((folder / name).read_bytes())
            except OSError as error:
                raise CheckpointDamaged(f"{folder / name} can't be read ({error}). Add the encoder again.") from None
            if hashlib.sha256(contents[-1]).hexdigest() != description.sha256[name]:
                raise CheckpointDamaged(f"{folder / name} was changed. Add the encoder again.")
        graph, tokenizer = contents
        return cls(graph, tokenizer, description)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors (n, d) of n texts. Raises BadSetting for an output of another shape, NotFinite."""
        vectors = [self._encode_text(text) for text in texts]
        stacked = np.stack(vectors)
        if not np.isfinite(stacked).all():
            raise NotFinite("The text tower gave NaN or infinity. Export it again, in float32.")
        return stacked

    def _encode_text(self, text: str) -> FloatArray:
        description = self._description
        with self._lock:
            clean = text.encode("utf-8", "replace").decode()  # an argument of a command may be invalid Unicode
            ids = self._tokenizer.encode(clean.lower() if description.lowercase else clean).ids
        length = len(ids)
        if description.pad_id is not None:
            ids = ids + [description.pad_id] * (description.context - length)
        filled = len(ids)
        rows = {
            "ids": np.array([ids]),
            "mask": (np.arange(filled) < length)[None],
            "zeros": np.zeros((1, filled)),
            "positions": np.arange(filled)[None],
        }
        (output,) = self._model.run({name: rows[role].astype(self._types[name]) for name, role in self._roles.items()})
        if output.ndim < 2 or output.size != output.shape[1]:
            raise BadSetting(
                f"The output {description.output} has the shape {output.shape} for one text. It must be one vector: "
                "name another one with --text-output."
            )
        return np.asarray(output, np.float32).reshape(-1)


def inspect_text(files: TextFiles) -> tuple[TextDescription, int] | str:
    """Return the description of a text tower and the length of its vectors, or why it is refused.

    Runs in a process with limits (images/loading/isolation.py).
    """
    try:
        graph, tokenizer = Path(files.graph).read_bytes(), Path(files.tokenizer).read_bytes()
        description = _describe(files, graph, tokenizer)
        tower = TextTower(graph, tokenizer, description)
        vectors, again = tower.encode(_SAMPLE_TEXTS), tower.encode(_SAMPLE_TEXTS)
        largest = float(np.abs(vectors).max())
        if np.abs(vectors - again).max() > MAX_REPEAT_DIFFERENCE * largest:
            return "It gives other vectors for the same texts when it runs again. Export it in evaluation mode."
        if np.abs(vectors - vectors[0]).max() <= MAX_REPEAT_DIFFERENCE * largest:
            return "It gives the same vector for different texts. Give the tokenizer of this network."
        return description, vectors.shape[1]
    except MemoryError:
        return "It needs more memory than the inspection of a file may use."
    except Exception as error:  # noqa: BLE001  # engines raise errors of any type
        return str(error) if isinstance(error, BadSetting | CheckpointDamaged | NotFinite) else get_first_line(error)


def _describe(files: TextFiles, graph: bytes, tokenizer: bytes) -> TextDescription:
    """Find out how texts are prepared. Raises BadSetting for what the files do not say."""
    interface = read_onnx(graph, "It")
    _load_tokenizer(tokenizer)
    roles = _assign_roles(interface)
    (ids,) = (value for value in interface.inputs if roles[value.name] == "ids")
    settings = _read_tokenizer_settings(tokenizer)
    fixed = ids.shape[1] if len(ids.shape) == 2 else None
    if len(ids.shape) != 2 or ids.shape[0] not in (None, 1):
        raise BadSetting(
            f"Its input {ids.name} has the shape {ids.shape}. It must be n x length: token ids of n texts."
        )
    if fixed is not None and files.context not in (None, fixed):
        raise BadSetting(f"Its input {ids.name} takes {fixed} tokens, not {files.context}. Leave out --context.")
    context = fixed or files.context or settings.context
    if context is None or not 2 <= context <= MAX_CONTEXT:
        raise BadSetting(
            "Neither the graph nor the tokenizer file says how many tokens a text has. Declare it: --context 77 for "
            "CLIP, 64 for SigLIP."
        )
    pad_id = None
    if fixed is not None or "mask" not in roles.values():
        pad_id = settings.pad_id if files.pad_id is None else files.pad_id
        if pad_id is None and "mask" in roles.values():
            pad_id = 0  # it is masked
        if pad_id is None:
            raise BadSetting(
                "Texts are filled up to their full length, and the tokenizer file does not say by which token. Declare "
                "it: --pad-id 0 for OpenCLIP, 49407 for CLIP of Hugging Face, 1 for SigLIP."
            )
    return TextDescription(
        output=_choose_output(files.output, [value.name for value in interface.outputs]),
        context=context,
        pad_id=pad_id,
        lowercase=files.lowercase,
        sha256={
            name: hashlib.sha256(content).hexdigest()
            for name, content in zip(TEXT_FILES, (graph, tokenizer), strict=True)
        },
    )


@dataclass(frozen=True)
class _TokenizerSettings:
    context: int | None
    pad_id: int | None


def _read_tokenizer_settings(content: bytes) -> _TokenizerSettings:
    """Return the length and the padding that a tokenizer file states."""
    stated = json.loads(content)
    truncation, padding = stated.get("truncation") or {}, stated.get("padding") or {}
    strategy = padding.get("strategy")
    fixed = strategy.get("Fixed") if isinstance(strategy, dict) else None
    known = {token.get("content"): token.get("id") for token in stated.get("added_tokens") or ()}
    by_name = next((known[token] for token in _PAD_TOKENS if token in known), None)
    return _TokenizerSettings(truncation.get("max_length") or fixed, padding.get("pad_id", by_name))


def _assign_roles(interface: OnnxInterface) -> dict[str, InputRole]:
    """Return what each input of the graph gets. Raises BadSetting for one that no text has."""
    roles: dict[str, InputRole] = {}
    for value in interface.inputs:
        role = _get_role(value)
        if role is None or value.element_type not in _INTEGERS:
            raise BadSetting(
                f"Its input {value.name} is none of token ids, mask, token types and positions in whole numbers. "
                "Export the text network alone."
            )
        roles[value.name] = role
    if list(roles.values()).count("ids") != 1:
        raise BadSetting(f"It needs one input of token ids, and has: {', '.join(roles) or 'none'}.")
    return roles


def _get_role(value: OnnxValue) -> InputRole | None:
    name = value.name.lower()
    if "mask" in name:
        return "mask"
    if "type" in name or "segment" in name:
        return "zeros"
    if "position" in name:
        return "positions"
    return "ids" if any(part in name for part in ("id", "token", "text")) else None


def _choose_output(output: str | None, names: list[str]) -> str:
    if output is None and len(names) == 1:
        return names[0]
    if output is None and EMBEDDING_OUTPUT in names:
        return EMBEDDING_OUTPUT
    if output in names:
        return str(output)
    problem = "has several outputs" if output is None else f"has no output {output!r}"
    raise BadSetting(f"It {problem}: {', '.join(names)}. Name the one with the embedding: --text-output NAME.")


def _load_tokenizer(content: bytes) -> Any:
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415  # an extra
    except ImportError:
        raise BadSetting(_NO_TOKENIZERS) from None
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the package raises Exception itself  # noqa: BLE001
        raise BadSetting(f"The tokenizer file can't be used ({error}). Give a tokenizer.json.") from None
