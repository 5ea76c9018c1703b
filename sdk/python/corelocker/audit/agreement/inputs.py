"""Inputs for a file of which only the signature is known, and the publisher's own.

A recipe makes all inputs of a method: images are dead leaves, signals smooth noise, tokens random ids of the vocabulary, masks
ones. What range a model expects is not written in its file, so several recipes are tried, and the one on which the original gives
the most different answers is taken.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corelocker import extras
from corelocker.artifacts import Artifact
from corelocker.audit.agreement.runners import Input, Method
from corelocker.errors import ConfigError, FileAccessError
from corelocker.locking.criteria.synthetic import InputStats, standard_values

RAW_BYTES = " from 0 to 255"
DECIBELS = " from -80 to 0"  # spectrograms
FALLBACK_VOCABULARIES = (1000, 100, 16, 2)
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
Columns = list[Any]


@dataclass(frozen=True)
class InputRecipe:
    """A way to make inputs.

    Attributes:
        name: for people.
        make: gives the columns of `count` calls from a seed.
        far: the range of floats that go far beyond a few units; empty where they do not.
    """

    name: str
    make: Callable[[int, int], Columns]
    far: str = ""


def recipes(method: Method, artifact: Artifact, stats: InputStats | None = None) -> Iterator[InputRecipe]:
    """Ways to make inputs of a method, the likeliest first."""
    shapes = [i for i in method.inputs if i.fixed is None]
    floats = any(i.dtype.is_floating_point for i in shapes)
    tokens = any(_is_index(i) for i in shapes)
    ranges: list[tuple[str, Callable[[Tensor], Tensor]]] = [("", lambda v: v)]
    if floats:
        if stats is not None:
            ranges = [(" of the given mean and spread", stats.apply)]
        ranges += [
            (" from 0 to 1", lambda v: (0.5 + v / 4).clamp(0, 1)),
            (RAW_BYTES, lambda v: (127.5 + 64 * v).clamp(0, 255).round()),
            (" of many strengths", _uneven),
            (" of a tenth of the spread", lambda v: v / 10),
            (DECIBELS, lambda v: (20 * v - 40).clamp(-80, 0)),
        ]
    for vocabulary in _vocabularies(artifact) if tokens else (2,):
        for others in (1, 0) if sum(map(_is_index, shapes)) > 1 else (1,):
            for words, scale in ranges:
                far = words if words in (RAW_BYTES, DECIBELS) else ""
                yield InputRecipe(_name(shapes) + words, _maker(method, vocabulary, others, scale), far)


def _uneven(values: Tensor) -> Tensor:
    """Each sample with a contrast and a mean of its own, as pictures and recordings have them."""
    generator = torch.Generator().manual_seed(len(values))
    shape = (len(values), *(1 for _ in values.shape[1:]))
    gain = torch.exp2(torch.empty(shape).uniform_(-3, 2, generator=generator))
    return values * gain + torch.randn(shape, generator=generator)


def _name(inputs: Sequence[Input]) -> str:
    kinds = {
        "tokens" if _is_index(i) else "images" if _is_image(i) else "signals" if len(i.shape) > 2 else "numbers"
        for i in inputs
        if i.dtype != torch.bool
    }
    return "synthetic " + " and ".join(sorted(kinds) or ["inputs"])


def _is_index(place: Input) -> bool:
    return place.dtype in (torch.int32, torch.int64, torch.int16) and not _is_image(place)


def _is_image(place: Input) -> bool:
    return len(place.shape) == 4 and min(place.shape[1:3]) * max(place.shape[2:]) >= 8 and max(place.shape) >= 8


def _vocabularies(artifact: Artifact) -> list[int]:
    """Sizes that the tokens' vocabulary may have: those of the embeddings, the largest first, then guesses."""
    tables = sorted({t.channels for t in artifact.tensors if t.role == "embedding"}, reverse=True)
    return [*tables, *(n for n in FALLBACK_VOCABULARIES if not tables or n < tables[-1])]


def _maker(
    method: Method, vocabulary: int, others: int, scale: Callable[[Tensor], Tensor]
) -> Callable[[int, int], Columns]:
    def make(count: int, seed: int) -> Columns:
        generator = torch.Generator().manual_seed(seed)
        columns: Columns = []
        seen = False
        for place in method.inputs:
            if place.fixed is not None:
                columns.append(place.fixed)
            elif place.dtype == torch.bool:
                columns.append(torch.ones(count, *place.shape, dtype=torch.bool))
            elif _is_index(place):
                # The first is what the model reads, others say where it is or what counts; one alone may be a position.
                alone = sum(map(_is_index, method.inputs)) == 1 and not any(
                    i.dtype.is_floating_point for i in method.inputs
                )
                size = int(np.prod(place.shape)) if place.shape else 1
                if not seen and (alone or size > 1 or len(place.shape) > 1):
                    ids = torch.randint(vocabulary, (count, *place.shape), generator=generator)
                else:
                    ids = torch.full((count, *place.shape), others if size > 1 else 0)
                seen = True
                columns.append(ids.to(place.dtype))
            else:
                columns.append(_numbers(place, count, generator, scale))
        return columns

    return make


def _numbers(place: Input, count: int, generator: torch.Generator, scale: Callable[[Tensor], Tensor]) -> Tensor:
    shape = place.shape
    batch, inner = (shape[0], shape[1:]) if len(shape) > 1 else (1, shape)
    if len(inner) == 3 and inner[2] in (1, 3, 4) and inner[0] not in (1, 3, 4):  # channels last
        values = standard_values(count * batch, (inner[2], *inner[:2]), generator).permute(0, 2, 3, 1)
    else:
        values = standard_values(count * batch, tuple(inner), generator)
    if not place.dtype.is_floating_point:  # images of bytes
        low = 128 if place.dtype == torch.int8 else 0
        values = (127.5 + 64 * values).clamp(0, 255).round() - low
    else:
        values = scale(values)
    return values.reshape(count, *shape).to(place.dtype)


def read_samples(path: Path, method: Method, stats: InputStats | None) -> Columns:
    """The publisher's inputs as columns of one method.

    A `.npy` holds one input (n, ...), a `.npz` one array for each input, by its name, by its place among the file's arrays, or `x`
    for a single one. A folder holds images. Images of bytes become x / 255, then the given mean and spread. Raises FileAccessError
    or ConfigError.
    """
    places = [i for i in method.inputs if i.fixed is None]
    try:
        if path.is_dir():
            arrays = {"x": _images(path, places[0])}
        elif path.suffix == ".npy":
            arrays = {"x": np.load(path, allow_pickle=False)}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            raise ConfigError(f"{path}: samples are a .npy, a .npz or a folder of images")
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, MemoryError):
        raise ConfigError(f"{path}: not plain arrays, or damaged") from None
    named = [arrays.get(place.name) for place in places]
    if any(found is None for found in named):
        named = [arrays["x"]] if len(places) == 1 and "x" in arrays else list(arrays.values())
    if len(named) < len(places):
        raise ConfigError(f"{path}: holds {len(named)} arrays, {method.name} has {len(places)} inputs")
    made = iter(_fitted(path, np.asarray(a), place, stats) for a, place in zip(named, places, strict=False))
    return [place.fixed if place.fixed is not None else next(made) for place in method.inputs]


def _fitted(path: Path, array: np.ndarray[Any, Any], place: Input, stats: InputStats | None) -> Tensor:
    inner = place.shape[1:] if len(place.shape) > 1 else place.shape
    if len(inner) == 3 and array.ndim == 3 and 1 in (inner[0], inner[2]):
        array = array[:, None] if inner[0] == 1 else array[..., None]
    if len(inner) == 3 and array.ndim == 4 and array.shape[1:] != inner:
        for moved in (array.transpose(0, 3, 1, 2), array.transpose(0, 2, 3, 1)):
            array = moved if moved.shape[1:] == inner else array
    if array.dtype == np.uint8 and place.dtype.is_floating_point:
        array = array.astype(np.float32) / 255
        if stats is not None:
            array = ((array - _spread(stats.mean, array, inner)) / _spread(stats.std, array, inner)).astype(np.float32)
    batch = place.shape[0] if len(place.shape) > 1 else 1
    try:
        values = torch.from_numpy(np.ascontiguousarray(array))
        count = len(values) // batch
        return values[: count * batch].reshape(count, *place.shape).to(place.dtype)
    except (RuntimeError, TypeError, ValueError):
        raise ConfigError(f"{path}: an array {array.shape} does not fit the input {place.name} {place.shape}") from None


def _spread(numbers: Sequence[float], array: np.ndarray[Any, Any], inner: Sequence[int]) -> np.ndarray[Any, Any]:
    found = np.asarray(numbers, np.float32)
    if found.size == 1 or (len(inner) == 3 and inner[2] == found.size != inner[0]):
        return found
    return found.reshape(1, -1, *(1 for _ in array.shape[2:]))


def _images(folder: Path, place: Input) -> np.ndarray[Any, Any]:
    """uint8 (n, *shape) of the images of a folder, by name."""
    image = extras.need("PIL.Image", "reading images", "audit")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)
    if not paths or len(place.shape) != 4:
        raise ConfigError(f"{folder}: holds no images, or the model's input {place.name} is none")
    first = place.shape[1] in (1, 3)
    channels = place.shape[1] if first else place.shape[3]
    height, width = place.shape[2:] if first else place.shape[1:3]
    found = []
    for path in paths:
        with image.open(path) as opened:
            pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)), np.uint8)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        found.append(pixels.transpose(2, 0, 1) if first else pixels)
    return np.stack(found)
