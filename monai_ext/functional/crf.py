# SPDX-License-Identifier: Apache-2.0
"""Pairwise energy of a windowed dense CRF in several views, as one stencil (Zhai et al., IEEE TMI 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

VIEW_NORMAL = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Array axis across which a view's planes are stacked, for arrays in RAS order."""

VIEWS = ("axial", "sagittal", "coronal")

# A voxel of padding differs from any real intensity by so much that its affinity is exactly 0; its square is finite.
_FAR = 1e18
# Voxels handled at once on the CPU. They stay in the cache, and below PyTorch's 32768 an operation keeps to the
# calling thread: meeting other threads thousands of times is slower by far where data loaders compete for the cores.
_CPU_BLOCK = 32000


class Stencil(NamedTuple):
    """Half of a symmetric neighbourhood: every unordered pair of voxels is met once."""

    offsets: tuple[tuple[int, int, int], ...]
    log_weights: tuple[float, ...]  # logarithm of (share of views) x (spatial Gaussian)
    reach: tuple[int, int, int]  # largest offset along each axis


@lru_cache(maxsize=32)
def make_stencil(
    shape: tuple[int, int, int],
    *,
    radius: int,
    sigma_space: float,
    views: tuple[str, ...] = VIEWS,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Stencil:
    """The windows of all views as one set of half-offsets.

    Three views of radius 5 give 165: offsets along an axis lie in two views and weigh 2/3, the others 1/3.

    Args:
        shape: voxels along each axis; offsets that no pair of voxels has are left out.
        radius: half width of the square window, in voxels.
        sigma_space: standard deviation of the spatial Gaussian, in the unit of ``spacing``.
        views: names of :py:data:`VIEW_NORMAL`.
        spacing: size of a voxel along each axis.
    """
    share: dict[tuple[int, int, int], float] = {}
    for view in views:
        first, second = (axis for axis in range(3) if axis != VIEW_NORMAL[view])
        for u in range(-radius, radius + 1):
            for v in range(-radius, radius + 1):
                offset = [0, 0, 0]
                offset[first], offset[second] = u, v
                key = (offset[0], offset[1], offset[2])
                if key > (0, 0, 0) and all(abs(o) < n for o, n in zip(key, shape, strict=True)):
                    share[key] = share.get(key, 0.0) + 1 / len(views)
    distance = [sum((o * s) ** 2 for o, s in zip(key, spacing, strict=True)) for key in share]
    log_weights = tuple(math.log(w) - d / (2 * sigma_space**2) for w, d in zip(share.values(), distance, strict=True))
    x, y, z = (max((abs(key[axis]) for key in share), default=0) for axis in range(3))
    return Stencil(tuple(share), log_weights, (x, y, z))


def crf_energy(
    probs: Tensor,
    image: Tensor,
    *,
    radius: int = 5,
    sigma_space: float = 6.0,
    sigma_intensity: float = 0.1,
    views: Sequence[str] = VIEWS,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    r"""Multi-view CRF loss per voxel, Eq. 7 and 8 of Zhai et al., IEEE TMI 2023.

    .. math::
        L = \frac{1}{|\Omega|} \frac{1}{|V|} \sum_{v \in V} \sum_{i \ne j} p_i (1 - p_j) K_{ij}, \qquad
        K_{ij} = \exp\left(-\frac{|r_i - r_j|^2}{2 \sigma_r^2} - \frac{(I_i - I_j)^2}{2 \sigma_I^2}\right)

    over ordered pairs within the window of ``radius`` in a plane of view v, averaged over the batch. For C classes
    the summand is :math:`\frac{1}{2} K_{ij} (1 - \sum_c p_{ic} p_{jc})`, which is the same thing for two.

    **Against the paper.** The window and the division by the number of voxels :math:`|\Omega|` come from the released
    code; Eq. 7 and 8 print a mean over slices of a sum over all pairs. The released value is twice this one, but its
    partial loss (Eq. 3) is not halved either, so the paper's alpha keeps its ratio here. The released code also pads
    with zeros, which adds a constant at the border. Eq. 6 prints the Potts term inverted; Eq. 7 is right.

    The gradient, :math:`\partial L / \partial p_i = \sum_j K_{ij} (1 - 2 p_j) / |\Omega|`, is gathered on the way
    forward, so memory is a few copies of the image whatever the radius. Computed in float32 under autocast, in
    float64 where ``probs`` is float64.

    Args:
        probs: class probabilities (B, C, *S) with 2-D or 3-D ``*S``, summing to 1 over C: of two classes only the
            last is read. (B, 1, *S) is the foreground of two classes. The only input that gets a gradient.
        image: intensities (B, M, *S); squared differences are summed over the M channels.
        radius: half width of the square window, in voxels even where ``spacing`` is given.
        sigma_space: :math:`\sigma_r`, in voxels, or in mm where ``spacing`` is given.
        sigma_intensity: :math:`\sigma_I`, in the image's unit (z-scored in the paper).
        views: out of ``axial``, ``sagittal``, ``coronal``, for arrays in RAS order; not read for 2-D images.
        spacing: voxel size in mm, one number per axis. None counts in voxels, as the released code does.

    Raises:
        ValueError: shapes, views, spacing or a parameter do not fit.
        RuntimeError: backward with ``create_graph=True``; there is no second derivative.
    """
    _check(probs, image, radius, sigma_space, sigma_intensity, views, spacing)
    dtype = torch.float64 if probs.dtype == torch.float64 else torch.float32
    # A MetaTensor would send each of the many small operations through Python.
    probs = probs.as_subclass(Tensor).to(dtype)
    image = image.detach().as_subclass(Tensor).to(dtype)
    size = (1.0,) * (probs.ndim - 2) if spacing is None else tuple(float(s) for s in spacing)
    if probs.ndim == 4:
        probs, image, views, size = probs[..., None], image[..., None], ("axial",), (*size, 1.0)
    if probs.shape[1] == 2:
        probs = probs[:, 1:]
    stencil = make_stencil(
        tuple(probs.shape[2:]), radius=radius, sigma_space=float(sigma_space), views=tuple(views), spacing=size
    )
    with torch.autocast(probs.device.type, enabled=False):
        return _PairwiseEnergy.apply(probs, image / (math.sqrt(2) * sigma_intensity), stencil)


class _PairwiseEnergy(torch.autograd.Function):
    """Energy and gradient in one sweep; with q = 1 - 2p an unordered pair of two classes costs K (1 - q_i q_j) / 2."""

    @staticmethod
    def forward(ctx: Any, probs: Tensor, image: Tensor, stencil: Stencil) -> Tensor:
        two_class = probs.shape[1] == 1
        values = 1 - 2 * probs if two_class else probs
        total, gathered = _sweep(values, image, stencil)
        voxels = probs.numel() // probs.shape[1]
        agreement = (values * gathered).sum()
        ctx.save_for_backward(gathered.mul_((1 if two_class else -1) / voxels))
        return (total / 2 - agreement / 4 if two_class else total - agreement / 2) / voxels

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph=True: the stored gradient would silently pass for a constant
            raise RuntimeError("crf_energy has a first derivative only; call backward without create_graph=True.")
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None


def _sweep(values: Tensor, image: Tensor, stencil: Stencil) -> tuple[Tensor, Tensor]:
    """Sum of K over unordered pairs, and sum over j of K_ij values_j at each i, in the shape of ``values``.

    All arrays are laid out flat with padding behind every axis. Then an offset in space is one shift of the flat
    array, and whatever a shift carries over an edge lands in padding, whose affinity to any voxel is 0.
    """
    margin = (stencil.reach[0] + 1, *stencil.reach[1:])  # the extra plane takes the longest shift of the last voxel
    sizes = (values.shape[0], *(n + m for n, m in zip(values.shape[2:], margin, strict=True)))
    stride = (sizes[2] * sizes[3], sizes[3], 1)
    channels, rows = _flatten(image, margin, _FAR), _flatten(values, margin, 0.0)
    gathered = torch.zeros_like(rows)
    mass = torch.zeros_like(rows[:1])
    shifts = [sum(o * s for o, s in zip(offset, stride, strict=True)) for offset in stencil.offsets]
    log_weights = torch.tensor(stencil.log_weights, dtype=rows.dtype, device=rows.device).unbind()
    end = rows.shape[1] - margin[0] * stride[0]  # behind it there is padding only
    block = min(_CPU_BLOCK, end) if rows.device.type == "cpu" else end
    buffer = rows.new_empty(2, block)
    for start in range(0, end, block):
        here = slice(start, min(start + block, end))
        kernel, difference = buffer[:, : here.stop - start].unbind()
        image_here, mass_here = channels[:, here].unbind(), mass[0, here]
        features = list(zip(rows, gathered, rows[:, here], gathered[:, here], strict=True))
        for shift, log_weight in zip(shifts, log_weights, strict=True):
            there = slice(start + shift, here.stop + shift)
            exponent = log_weight
            for channel, channel_here in zip(channels, image_here, strict=True):
                torch.sub(channel_here, channel[there], out=difference)
                exponent = torch.addcmul(exponent, difference, difference, value=-1, out=kernel)
            kernel.exp_()
            mass_here.add_(kernel)
            for row, result, row_here, result_here in features:
                result_here.addcmul_(kernel, row[there])
                result[there].addcmul_(kernel, row_here)
    x, y, z = values.shape[2:]
    mass, gathered = (t.view(-1, *sizes).transpose(0, 1)[:, :, :x, :y, :z] for t in (mass, gathered))
    return mass.sum(), gathered.contiguous()


def _flatten(array: Tensor, margin: tuple[int, ...], fill: float) -> Tensor:
    """(B, F, X, Y, Z) to (F, voxels) with ``margin`` voxels of padding behind each axis."""
    padded = F.pad(array, (0, margin[2], 0, margin[1], 0, margin[0]), value=fill)
    return padded.transpose(0, 1).reshape(array.shape[1], -1)


def _check(
    probs: Tensor,
    image: Tensor,
    radius: int,
    sigma_space: float,
    sigma_intensity: float,
    views: Sequence[str],
    spacing: Sequence[float] | None,
) -> None:
    if probs.ndim not in (4, 5) or image.ndim != probs.ndim or probs.shape[2:] != image.shape[2:]:
        raise ValueError(
            "The CRF needs probabilities (B, C, *S) and an image (B, M, *S) on one 2-D or 3-D grid, "
            f"found {tuple(probs.shape)} and {tuple(image.shape)}."
        )
    if probs.shape[0] != image.shape[0]:
        raise ValueError(f"The CRF found {probs.shape[0]} predictions for {image.shape[0]} images in a batch.")
    if radius < 1 or sigma_space <= 0 or sigma_intensity <= 0:
        raise ValueError(
            "The CRF needs radius >= 1 and positive sigma_space and sigma_intensity, "
            f"found {radius}, {sigma_space} and {sigma_intensity}."
        )
    if not views or len(set(views)) != len(views) or not set(views) <= set(VIEW_NORMAL):
        raise ValueError(f"CRF views must be different ones out of {sorted(VIEW_NORMAL)}, found {list(views)}.")
    if spacing is not None and (len(spacing) != probs.ndim - 2 or min(spacing) <= 0):
        raise ValueError(f"CRF spacing must be {probs.ndim - 2} positive numbers in mm, found {list(spacing)}.")
