# SPDX-License-Identifier: Apache-2.0
"""Annotated patches, each with synthetic masks of its nuclei."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from numpy.typing import NDArray
from scipy.ndimage import label as components

from monai_ext.data import faults
from monai_ext.data.datalist import load_datalist
from monai_ext.data.errors import DataFault, fault
from monai_ext.functional.mask_synthesis import SynthesizedMask, nuclei_of, synthesize_masks

logger = logging.getLogger(__name__)


class SyntheticMaskDataset(Dataset):
    """An item for each synthetic mask of each patch; patches are read and masks are made once, when this is made.

    An item holds ``image`` (3, H, W) and ``real_mask`` (1, H, W), 0 or 1, of the patch; ``mask`` (1, H, W), 0 or 1,
    and ``instances`` (1, H, W), of the synthetic map; and ``part``, the place of the patch, ``number`` of the mask and
    ``seed``, for what is drawn for it. All but the place depend on the patch's name and the seed alone.

    Args:
        data: of each patch ``image`` and ``label``, its instance map.
        transform: reads both.
        number: of masks for each patch; fewer are the first ones of more.
        density, margin_px, border_px: see :func:`~monai_ext.functional.mask_synthesis.synthesize_masks`.
        seed: of the masks.
        fresh: other masks than without.

    Raises:
        ValueError: a patch without a nucleus that the border does not cut.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        *,
        number: int = 50,
        density: tuple[float, float] = (0.8, 1.2),
        margin_px: int = 22,
        border_px: int = 1,
        seed: int = 0,
        fresh: bool = False,
    ) -> None:
        super().__init__(data, transform)
        self.number = number
        self.names = [name_of(entry) for entry in data]
        self.seeds = [(seed, int(fresh), zlib.crc32(name.encode())) for name in self.names]
        self.patches = [self._read(entry) for entry in data]
        options: dict[str, Any] = {"number": number, "density": tuple(density)}
        options |= {"margin_px": margin_px, "border_px": border_px}
        self.masks: list[list[SynthesizedMask]] = [
            synthesize_masks(patch["label"][0].numpy(), rng=np.random.default_rng(own), **options)
            for patch, own in zip(self.patches, self.seeds, strict=True)
        ]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each patch."""
        return [tuple(patch["image"].shape[1:]) for patch in self.patches]

    @property
    def parts(self) -> list[int]:
        """Place of the patch of each item."""
        return [part for part in range(len(self.patches)) for _ in range(self.number)]

    @property
    def saturation(self) -> dict[str, str]:
        """For each patch in words how many nuclei found room, before the maps were cropped."""
        words = {}
        for name, masks in zip(self.names, self.masks, strict=True):
            placed, wanted = (sum(getattr(mask, key) for mask in masks) for key in ("placed", "wanted"))
            words[name] = f"{placed} of {wanted} nuclei found room in {len(masks)} masks"
        return words

    def __len__(self) -> int:
        return len(self.patches) * self.number

    def __getitem__(self, index: Any) -> dict[str, Any]:
        part, number = divmod(int(index), self.number)
        patch, instances = self.patches[part], torch.from_numpy(self.masks[part][number].instances[None])
        seed = int(np.random.SeedSequence((*self.seeds[part], number)).generate_state(1)[0])
        item = {"image": patch["image"], "real_mask": patch["real_mask"], "mask": (instances > 0).float()}
        return item | {"instances": instances, "part": part, "number": number, "seed": seed}

    def _read(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        patch = self.transform({key: entry[key] for key in ("image", "label")})
        label = torch.as_tensor(patch["label"]).long()
        return {"image": patch["image"], "label": label, "real_mask": (label > 0).float()}


def name_of(entry: Mapping[str, Any]) -> str:
    """Name of a patch, after its file."""
    return Path(str(entry["image"])).stem


def trained_patches(data: Sequence[Mapping[str, Any]], gan_dir: str | Path) -> list[Mapping[str, Any]]:
    """Those of the patches whose generators are trained; the log names the others.

    Args:
        data: of each patch ``image``, after which its weights are named.
        gan_dir: where ``<name>.pt`` are.

    Raises:
        SystemExit: there is none.
    """
    trained = [entry for entry in data if (Path(gan_dir) / f"{name_of(entry)}.pt").exists()]
    if not trained:
        raise SystemExit(f"{gan_dir}: found no weights of the {len(data)} patches; train first, or set gan_dir.")
    for name in [name_of(entry) for entry in data if entry not in trained]:
        logger.warning("%s: left out, as %s has no weights of its generator yet", name, gan_dir)
    return trained


def patches_with_nuclei(data: Sequence[Mapping[str, Any]], *, border_px: int = 1) -> list[Mapping[str, Any]]:
    """Those of the patches that masks can be made of, as they have a whole nucleus; the log names the others.

    Args:
        data: of each patch ``image`` and ``label``, its instance map.
        border_px: a nucleus that comes within so many pixels of the border is cut.
    """
    some = [entry for entry in data if nuclei_of(_numbers(entry["label"]), border_px=border_px)]
    for name in [name_of(entry) for entry in data if entry not in some]:
        logger.warning("%s: left out, as no nucleus is farther than %d px from the border", name, border_px)
    return some


def check_patches_or_exit(
    datalist: str | Path, dataset_dir: str | Path, *, smallest_px: int = 1, border_px: int = 1, fewest: int = 1
) -> None:
    """Refuse patches of which no masks can be made; ``check_or_exit`` has seen that their files are there and fit.

    Args:
        datalist: names the patches, in its section ``training``.
        dataset_dir: folder that its paths are relative to.
        smallest_px: least height and width.
        border_px: a nucleus that comes within so many pixels of the border is cut.
        fewest: so many patches need a whole nucleus.

    Raises:
        SystemExit: with one sentence.
    """
    try:
        entries = load_datalist(datalist, dataset_dir, "training")
        names = [name_of(entry) for entry in entries]
        if len(set(names)) < len(names):
            found = f"two patches are named {max(names, key=names.count)!r}"
            raise fault(datalist, "image", found=found, expected="a name for each")
        numbers = [_numbers(entry["label"]) for entry in entries]
        for entry, some in zip(entries, numbers, strict=True):
            _check_label(some, entry["label"], smallest_px=smallest_px)
        whole = sum(bool(nuclei_of(some, border_px=border_px)) for some in numbers)
        if whole < fewest:
            found = f"{whole} of {len(entries)} patches have a nucleus farther than {border_px} px from the border"
            raise fault(datalist, "training", found=found, expected=f"{fewest} or more, which masks are made of")
    except DataFault as error:
        raise SystemExit(str(error)) from None


def _numbers(file: str) -> NDArray[np.int64]:
    return faults.read_volume(file, key="label").numpy()[0].astype(np.int64)


def _check_label(numbers: NDArray[np.int64], file: str, *, smallest_px: int) -> None:
    if min(numbers.shape) < smallest_px:
        found = f"the patch has {numbers.shape[0]} x {numbers.shape[1]} pixels"
        raise fault(file, "label", found=found, expected=f"{smallest_px} or more (smallest_px) in each direction")
    places = components(numbers > 0, np.ones((3, 3)))[1]
    if len(np.unique(numbers[numbers > 0])) == 1 and places > 1:
        found = f"one number in {places} places, which is a mask"
        raise fault(file, "label", found=found, expected="an instance map with a number for each nucleus")
