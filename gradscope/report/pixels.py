"""Small pictures as PNG inside the page: pixels of an input, and what drove the answer."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

FOR, AGAINST = (213, 94, 0), (0, 114, 178)
"""Vermilion and blue of Okabe and Ito (2008): told apart with any colour-vision deficiency."""


def grey(values: Sequence[float], size: tuple[int, int]) -> str:
    """A picture in grey from its smallest (black) to its largest value (white), as a data URI."""
    plane = np.asarray(values, float).reshape(size)
    low, high = float(plane.min()), float(plane.max())
    level = np.zeros_like(plane) if high <= low else (plane - low) / (high - low)
    shade = np.rint(255 * level).astype(np.uint8)
    opaque = np.full_like(shade, 255)
    return _uri(np.stack([shade, shade, shade, opaque], axis=-1))


def coloured(values: Sequence[int], size: tuple[int, int]) -> str:
    """A picture from RGB values, row by row."""
    planes = np.asarray(values, np.uint8).reshape(*size, 3)
    opaque = np.full((*size, 1), 255, np.uint8)
    return _uri(np.concatenate([planes, opaque], axis=-1))


def signed(values: Sequence[float], size: tuple[int, int]) -> str:
    """Positive values in vermilion, negative ones in blue, the stronger the larger.

    What is near 0 is transparent, so it takes the colour of the page in either theme.
    """
    plane = np.asarray(values, float).reshape(size)
    plane = np.where(np.isfinite(plane), plane, 0.0)
    top = float(np.abs(plane).max()) or 1.0
    strength = np.sqrt(np.abs(plane) / top)
    pixels = np.zeros((*size, 4), np.uint8)
    pixels[..., :3] = np.where((plane >= 0)[..., None], FOR, AGAINST)
    pixels[..., 3] = np.rint(255 * strength)
    return _uri(pixels)


def _uri(pixels: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def png(pixels: Pixels) -> bytes:
    """A PNG file (ISO/IEC 15948) of ``[rows, columns, 4]`` RGBA pixels."""
    rows, columns = pixels.shape[:2]
    # filter type 0 in front of each row
    raw = b"".join(b"\x00" + pixels[row].tobytes() for row in range(rows))
    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
