# SPDX-License-Identifier: Apache-2.0
"""Which few patches to annotate: those that stand for many others and are alike within.

Source: Lou et al., "Which pixel to annotate: a label-efficient nuclei segmentation framework" (IEEE TMI 2022), section
III-A, Eq. 1 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans

from monai_ext.functional.stain_texture import standardize

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Candidates = Literal["all", "touching"]
Exact = Callable[[Ints], tuple[NDArray[np.floating], NDArray[np.floating]]]

COARSE_ITERATIONS, FINE_ITERATIONS = 10_000, 50_000


class Windows(NamedTuple):
    """All windows of all images, from which patches are chosen."""

    features: NDArray[np.floating]
    """(N, D) f(x) of each window; without columns where nothing is known of them."""
    regions: NDArray[np.floating]
    """(N, 4, D) f(x_p) of its four quarters."""
    image: Ints
    """(N,) number of its image."""
    off_centre_px: Floats
    """(N,) distance of its centre from its image's."""
    exact: Exact | None = None
    """Of approximate features: takes numbers of n windows to the exact ``features`` (n, D), ``regions`` (n, 4, D)."""


class Selection(NamedTuple):
    """What was chosen, and why where windows were compared."""

    picks: Ints
    """(K1,) the chosen windows, one from each coarse cluster where there are clusters."""
    clusters: Ints | None = None
    """(N,) coarse cluster of each window."""
    terms: Floats | None = None
    """(N, 3) the three terms of Eq. 1, unweighted."""
    costs: Floats | None = None
    """(N,) their weighted sum; infinite where a window was no candidate or not in the short list."""
    features: NDArray[np.floating] | None = None
    """(N, D) as they were compared."""


def join_windows(found: Sequence[Mapping[str, Any]]) -> Windows:
    """The windows of several images, from what :class:`~monai_ext.inferers.WindowFeatureInferer` says of each."""
    features, regions, off_centre, corners = (
        np.concatenate([one[key] for one in found]) for key in ("features", "regions", "off_centre_px", "corners")
    )
    image = np.repeat(np.arange(len(found)), [len(one["corners"]) for one in found])

    def exact(windows: Ints) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        own = np.empty((len(windows), *features.shape[1:]), features.dtype)
        quarters = np.empty((len(windows), *regions.shape[1:]), regions.dtype)
        for number in np.unique(image[windows]):
            on_it = image[windows] == number
            own[on_it], quarters[on_it] = found[number]["exact"](corners[windows[on_it]])
        return own, quarters

    return Windows(features, regions, image, off_centre, exact if all("exact" in one for one in found) else None)


def select_patches(
    windows: Windows,
    *,
    clusters: int,
    fine_clusters: int = 4,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    candidates: Candidates = "all",
    scale: bool = False,
    seeds: Sequence[int] = (42, 500),
    cheapest: int = 32,
    spread: int = 96,
) -> Selection:
    r"""One window of each of K1 clusters of windows, the one of least cost (Algorithm 1).

    .. math:: x^k = \arg\min_{x \in C_k} \Big\{ \|f(x) - C(x)\| + \tfrac14 \sum_p \|f(x_p) - c(x)\|
        + \max_{i<j} \|f(x_i) - f(x_j)\| \Big\}

    C(x) is the centre of the window's cluster. Its sub-regions are clustered in turn, and c(x) is the centre of the
    largest of these fine clusters, the first of equal ones. k-means is scikit-learn's, with the options and seeds of
    the released code. A cluster of fewer sub-regions than ``fine_clusters`` has as many as there are.

    Approximate features, which the paper does not have, make the clusters and of each a short list. First come
    ``spread`` windows, evenly from the cheapest to the dearest. Their exact features give C(x) and c(x) anew, and by
    least squares the cost to expect of approximate terms; the windows that are ``cheapest`` by it join the list. The
    window of the list that costs least by exact features is picked.

    Args:
        windows: with features.
        clusters: K1, the number of windows to pick.
        fine_clusters: K2.
        weights: of the three terms; the paper's ablations set one or two to 0.
        candidates: ``"all"`` windows of a cluster, as the paper has it, or only those ``"touching"`` its largest fine
            cluster with a sub-region, as the released code does.
        scale: give all features the same spread first, for those in units of their own.
        seeds: of the coarse and of each fine k-means.
        cheapest, spread: of approximate windows, the length of each short list; with 0 ``cheapest`` there is none and
            the approximation decides.

    Raises:
        ValueError: shapes that do not fit, fewer different windows than clusters, or an option out of range.
    """
    features, quarters = np.asarray(windows.features), np.asarray(windows.regions)
    if features.ndim != 2 or quarters.shape != (len(features), 4, features.shape[1]):
        raise ValueError(
            f"regions: found the shape {quarters.shape}, expected 4 of each of the windows {features.shape}."
        )
    _check_number("clusters", clusters, len(features), "the number of windows")
    if candidates not in ("all", "touching"):
        raise ValueError(f"candidates: found {candidates!r}, expected 'all' or 'touching'.")
    if cheapest < 0 or spread < 1:
        raise ValueError(f"cheapest, spread: found {cheapest}, {spread}, expected 0 or more and 1 or more.")
    exact = windows.exact
    if scale:
        features, quarters = standardize(features), standardize(quarters, features)
        exact = None if exact is None else partial(_scaled, exact, like=windows.features)
    owner, centres = _k_means(features, clusters, seed=seeds[0], iterations=COARSE_ITERATIONS)
    if (different := len(np.unique(owner))) < clusters:
        raise ValueError(f"clusters: found {different} different windows, expected {clusters} or more.")
    terms = np.zeros((len(features), 3))
    costs = np.full(len(features), np.inf)
    picks = np.zeros(clusters, np.int64)
    for number, centre in enumerate(centres):
        members = np.flatnonzero(owner == number)
        fine_centre, touching = _largest_fine_cluster(quarters[members], fine_clusters, seed=seeds[1])
        terms[members] = consistency_terms(features[members], quarters[members], centre, fine_centre)
        allowed = touching if candidates == "touching" else np.ones(len(members), bool)
        if exact is not None and cheapest:
            listed, found = _short_list(
                members, terms[members], allowed, exact, weights, fine_clusters, seeds[1], cheapest, spread
            )
            terms[listed] = found
            allowed = allowed & np.isin(members, listed)
        costs[members[allowed]] = terms[members[allowed]] @ np.asarray(weights)
        picks[number] = members[costs[members].argmin()]
    return Selection(picks, owner, terms, costs, features)


def random_windows(windows: Windows, *, number: int, seed: int = 0) -> Selection:
    """Any windows (the paper's RndCrop), different ones; their features are not looked at.

    Raises:
        ValueError: fewer windows than the number.
    """
    _check_number("number", number, len(windows.image), "the number of windows")
    return Selection(np.random.default_rng(seed).choice(len(windows.image), number, replace=False))


def random_centres(windows: Windows, *, number: int, seed: int = 0) -> Selection:
    """The window nearest to the centre of each of some images (the paper's RndCenCrop); features are not looked at.

    Raises:
        ValueError: fewer images than the number.
    """
    images = np.unique(windows.image)
    _check_number("number", number, len(images), "the number of images")
    chosen = np.random.default_rng(seed).choice(images, number, replace=False)
    return Selection(
        np.array([np.where(windows.image == image, windows.off_centre_px, np.inf).argmin() for image in chosen])
    )


def consistency_terms(features: ArrayLike, regions: ArrayLike, centre: ArrayLike, fine_centre: ArrayLike) -> Floats:
    """The terms of Eq. 1 for windows of one cluster, (N, 3): distance to the cluster's centre, mean distance of the
    quarters to the fine centre, and the largest distance between two quarters.

    Args:
        features: (N, D).
        regions: (N, 4, D).
        centre: (D,).
        fine_centre: (D,).
    """
    windows, quarters = np.asarray(features, np.float64), np.asarray(regions, np.float64)
    coarse = np.linalg.norm(windows - np.asarray(centre), axis=-1)
    fine = np.linalg.norm(quarters - np.asarray(fine_centre), axis=-1).mean(-1)
    apart = [np.linalg.norm(quarters[:, i] - quarters[:, j], axis=-1) for i, j in combinations(range(4), 2)]
    return np.stack([coarse, fine, np.max(apart, axis=0)], axis=-1)


def window_corners(height: int, width: int, *, size: int, stride: int) -> Ints:
    """First row and column of each window of an image, (M, 2), row by row.

    Offsets are multiples of the stride, so a strip narrower than the stride may be left over at the far borders.

    Raises:
        ValueError: a window that does not fit into the image, or a stride below 1.
    """
    if size > min(height, width) or size < 1:
        raise ValueError(f"size: found {size}, expected 1 to {min(height, width)} for an image of {height} x {width}.")
    if stride < 1:
        raise ValueError(f"stride: found {stride}, expected 1 or more.")
    rows, columns = (np.arange(0, side - size + 1, stride) for side in (height, width))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def _short_list(
    members: Ints,
    terms: Floats,
    allowed: NDArray[np.bool_],
    exact: Exact,
    weights: Sequence[float],
    fine_clusters: int,
    seed: int,
    cheapest: int,
    spread: int,
) -> tuple[Ints, Floats]:
    """Those windows of a cluster whose exact features are asked for, and their exact terms.

    ``terms`` are the approximate ones of all ``members``, of which the ``cheapest`` are sought among the ``allowed``.
    """
    order = np.argsort(terms @ np.asarray(weights), kind="stable")
    across = np.sort(order[np.linspace(0, len(order) - 1, min(spread, len(order))).round().astype(int)])
    features, quarters = exact(members[across])
    centre = features.mean(0)
    fine_centre, _ = _largest_fine_cluster(quarters, fine_clusters, seed=seed)
    found = consistency_terms(features, quarters, centre, fine_centre)
    known = np.c_[terms, np.ones(len(terms))]
    expected = known @ np.linalg.lstsq(known[across], found @ np.asarray(weights), rcond=None)[0]
    candidates = np.flatnonzero(allowed)
    near = np.setdiff1d(candidates[np.argsort(expected[candidates], kind="stable")][:cheapest], across)
    if len(near):
        found = np.concatenate([found, consistency_terms(*exact(members[near]), centre, fine_centre)])
    return members[np.concatenate([across, near])], found


def _scaled(exact: Exact, numbers: Ints, *, like: NDArray[np.floating]) -> tuple[Floats, Floats]:
    features, quarters = exact(numbers)
    return standardize(features, like), standardize(quarters, like)


def _largest_fine_cluster(
    quarters: NDArray[np.floating], clusters: int, *, seed: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Centre of the largest cluster of the quarters (M, 4, D), and which windows (M,) have one in it."""
    fine, centres = _k_means(quarters.reshape(-1, quarters.shape[-1]), clusters, seed=seed, iterations=FINE_ITERATIONS)
    largest = np.bincount(fine).argmax()
    return centres[largest], (fine.reshape(-1, 4) == largest).any(1)


def _k_means(points: NDArray[np.floating], clusters: int, *, seed: int, iterations: int) -> tuple[Ints, Floats]:
    """Cluster of each point, and the clusters' centres, the means of their points."""
    found = KMeans(min(clusters, len(points)), init="random", n_init=10, max_iter=iterations, random_state=seed).fit(
        points
    )
    return found.labels_.astype(np.int64), found.cluster_centers_


def _check_number(name: str, found: int, most: int, of: str) -> None:
    if not 1 <= found <= most:
        raise ValueError(f"{name}: found {found}, expected 1 to {most}, {of}.")
