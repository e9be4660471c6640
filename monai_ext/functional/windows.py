# SPDX-License-Identifier: Apache-2.0
"""Square windows around many cells: read from images, and laid back onto them, without a map per cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 128
"""Windows looked at together: few enough to stay in a processor's cache."""


class Windows(NamedTuple):
    """Where each window lies.

    Attributes:
        image: int64 (N,), which image of the batch.
        origin: int64 (N, 2), first pixel along both axes; may be negative, or beyond the image.
        size: pixels along each side.
        shape: (B, H, W) of the images.
    """

    image: Tensor
    origin: Tensor
    size: int
    shape: tuple[int, int, int]


def inside(windows: Windows) -> Tensor:
    """Which pixels of each window lie in its image: bool (N, size, size)."""
    steps = torch.arange(windows.size, device=windows.origin.device)
    pixels = windows.origin[..., None] + steps
    limits = torch.tensor(windows.shape[1:], device=pixels.device)[:, None]
    first, second = ((pixels >= 0) & (pixels < limits)).unbind(1)
    return first[:, :, None] & second[:, None, :]


def gather_windows(maps: Tensor, windows: Windows) -> Tensor:
    """What each window shows of its image, 0 off it.

    Args:
        maps: (B, C, H, W). Gradient passes.
        windows: N windows.

    Returns:
        (N, C, size, size).
    """
    rows = _Gather.apply(maps.permute(0, 2, 3, 1), windows)
    return rows.unflatten(1, (windows.size, windows.size)).permute(0, 3, 1, 2)


def scatter_sum(values: Tensor, windows: Windows) -> Tensor:
    """Sum of all windows where they lie; what is off the image is dropped.

    Args:
        values: (N, size, size). Gradient passes.
        windows: N windows.

    Returns:
        (B, H, W).
    """
    return _Scatter.apply(values.flatten(1)[..., None], windows)[..., 0]


@torch.no_grad()
def scatter_max(values: Tensor, windows: Windows, *, fill: float) -> Tensor:
    """Largest value of all windows at each pixel, without gradient.

    Args:
        values: (N, size, size).
        windows: N windows.
        fill: where no window reaches.

    Returns:
        (B, H, W).
    """
    canvas = values.new_full((math.prod(_padded(windows)),), -math.inf)
    for part, index in _chunks(windows):
        canvas.scatter_reduce_(0, index.flatten(), values[part].flatten(), "amax")
    found = _crop(canvas[:, None], windows)[..., 0]
    return torch.where(found == -math.inf, fill, found)


def sum_of_chunks(function: Callable[..., tuple[Tensor, ...]], windows: Windows, *values: Tensor) -> tuple[Tensor, ...]:
    """Sums of what a function makes of some windows at a time; what it computes inside is not kept for the gradient.

    Args:
        function: takes some of the windows and their values, gives tensors whose shapes do not depend on how many.
        windows: N windows.
        values: (N, ...) each. Gradient passes.

    Returns:
        What ``function`` returns, added up; for N = 0 what it returns for none.
    """
    total: tuple[Tensor, ...] | None = None
    # Splitting, unlike slicing, gives a gradient without a zero-filled array for each part.
    for image, origin, *some in zip(*(x.split(CHUNK) for x in (windows.image, windows.origin, *values)), strict=True):
        found = checkpoint(function, windows._replace(image=image, origin=origin), *some, use_reentrant=False)
        total = found if total is None else tuple(a + b for a, b in zip(total, found, strict=True))
    assert total is not None
    return total


class _Gather(torch.autograd.Function):
    """(B, H, W, C) to (N, size^2, C); the gradient is the sum."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        return _read(maps, windows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(gradient, ctx.windows), None


class _Scatter(torch.autograd.Function):
    """(N, size^2, C) to (B, H, W, C); the gradient is what the windows show of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        canvas = values.new_zeros(math.prod(_padded(windows)), values.shape[-1])
        for part, index in _chunks(windows):
            if values.shape[-1] == 1:  # the faster of the two
                canvas[:, 0].scatter_add_(0, index.flatten(), values[part].flatten())
            else:
                canvas.index_add_(0, index.flatten(), values[part].flatten(0, 1))
        return _crop(canvas, windows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradient, ctx.windows), None


def _read(maps: Tensor, windows: Windows) -> Tensor:
    """A row of a window is one run of memory, so runs are selected, not pixels."""
    size, channels = windows.size, maps.shape[-1]
    canvas = torch.nn.functional.pad(maps, (0, 0, size, size, size, size)).contiguous()
    width = canvas.shape[2]
    runs = canvas.as_strided((canvas.numel() // channels - size + 1, size * channels), (channels, 1))
    starts = _starts(windows)[:, None] + torch.arange(size, device=maps.device) * width
    return runs.index_select(0, starts.flatten()).view(len(starts), size * size, channels)


def _padded(windows: Windows) -> tuple[int, int, int]:
    """Shape of the images with a margin that every window fits into: nothing wraps round at a border."""
    batch, height, width = windows.shape
    return batch, height + 2 * windows.size, width + 2 * windows.size


def _crop(canvas: Tensor, windows: Windows) -> Tensor:
    """(padded pixels, C) to (B, H, W, C)."""
    _, height, width = windows.shape
    size = windows.size
    whole = canvas.unflatten(0, _padded(windows))
    return whole[:, size : size + height, size : size + width].contiguous()


def _starts(windows: Windows) -> Tensor:
    """Index (N,) of each window's first pixel in the flattened padded images."""
    _, height, width = _padded(windows)
    limits = torch.tensor(windows.shape[1:], device=windows.origin.device)
    first, second = (windows.origin + windows.size).clamp_min(0).minimum(limits + windows.size).unbind(1)
    return (windows.image * height + first) * width + second


def _chunks(windows: Windows) -> Iterator[tuple[slice, Tensor]]:
    """Some windows at a time: which, and the index (n, size^2) of their pixels in the flattened padded images."""
    start = _starts(windows)
    steps = torch.arange(windows.size, device=start.device)
    offsets = (steps[:, None] * _padded(windows)[2] + steps).flatten()
    for begin in range(0, len(start), CHUNK):
        part = slice(begin, begin + CHUNK)
        yield part, start[part, None] + offsets
