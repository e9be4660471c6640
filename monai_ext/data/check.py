# SPDX-License-Identifier: Apache-2.0
"""Check a datalist and all it names before training starts, and tell what was found."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from tqdm import tqdm

from monai_ext.data import coco_faults, faults, point_faults, run_faults
from monai_ext.data.datalist import PATH_KEYS, entries_of, labels_of, located, read_datalist, resolve, sections_of
from monai_ext.data.errors import DataFault, fault
from monai_ext.data.summary import SectionSummary, format_table

__all__ = ["DataFault", "SectionSummary", "check_datalist", "check_or_exit", "format_table"]

Sizes = dict[str, set[tuple[int, int]]]

_BYTES_PER_VOXEL = 6
"""What a cached voxel takes: the image in float32, its labels and its valid region in uint8."""

_SILENT_UP_TO = 50
"""Number of entries that are checked without a progress line."""


def check_datalist(
    datalist: str | Path,
    dataset_dir: str | Path,
    *,
    needs: Mapping[str, Sequence[str]] | None = None,
    classes: int | None = None,
) -> list[SectionSummary]:
    """Check a datalist: its structure first, then that each file exists, then what the files hold, each read once.

    Args:
        datalist: the JSON file.
        dataset_dir: folder that its paths are relative to.
        needs: for each section that the method uses, the keys it uses there, for example ``{"training": ["image",
            "points"]}``; ``"annotations"`` is the top-level COCO file. Other sections and keys are not read. None
            checks all sections with the keys that each entry has.
        classes: number of classes that the method learns, background included; masks may then hold the values below
            it only. None allows any.

    Returns:
        One summary a section.

    Raises:
        DataFault: at the first fault, in one sentence that names the file, the key, what was found and what was
            expected.
    """
    content = read_datalist(datalist)
    if not Path(dataset_dir).is_dir():
        raise fault(dataset_dir, "dataset_dir", found="there is no such folder", expected="the folder of the images")
    _check_entries(datalist, dataset_dir, content)
    used = {section: None for section in sections_of(content)} if needs is None else dict(needs)
    if not used:
        raise fault(datalist, "datalist", found="there is no section in it", expected="a list such as 'training'")
    plans = {name: _plan(datalist, dataset_dir, content, name, keys) for name, keys in used.items()}
    for plan in plans.values():
        for entry in plan:
            for key in PATH_KEYS:
                files = entry.get(key, [])
                for file in [files] if isinstance(files, str) else files:
                    faults.check_exists(file, key=key)
    names = labels_of(datalist) if any("label" in entry for plan in plans.values() for entry in plan) else {}
    if classes is not None and (beyond := sorted(set(names) - set(range(classes)))):
        expected = f"0 to {classes - 1} only, as this method learns {classes} classes with the background"
        raise fault(datalist, "labels", found=f"the value {beyond[0]} ({names[beyond[0]]!r})", expected=expected)
    sizes: Sizes = defaultdict(set)
    total = sum(map(len, plans.values()))
    with tqdm(total=total, desc="checking data", unit="case", disable=total <= _SILENT_UP_TO) as progress:
        rows = [_check_section(section, plan, names, sizes, progress) for section, plan in plans.items()]
    for row, plan in zip(rows, plans.values(), strict=True):
        masks = sum("label" in entry for entry in plan)
        if masks and not row.label_volumes and not row.instances:
            found = f"all of its {masks} masks are empty"
            raise fault(datalist, row.section, found=found, expected="some pixel that is not background")
        if classes is not None and row.instances:
            found = f"{len(row.instances)} labels of 16 bits, which are instance maps"
            raise fault(datalist, row.section, found=found, expected="masks of class numbers in 8 bits")
    if needs is None or any("annotations" in needs[row.section] for row in rows):
        _check_annotations(datalist, dataset_dir, content, plans, rows, sizes=sizes, needs=needs)
    return rows


def check_or_exit(
    datalist: str | Path,
    dataset_dir: str | Path,
    *,
    needs: Mapping[str, Sequence[str]] | None = None,
    classes: int | None = None,
    cache_rate: float = 0.0,
    fewest: int = 1,
    smallest_px: int = 1,
) -> list[SectionSummary]:
    """Do :func:`check_datalist` for a bundle's ``initialize``: a fault ends the program with its sentence.

    Args:
        datalist: the JSON file.
        dataset_dir: folder that its paths are relative to.
        needs: keys used of each section.
        classes: number of classes that the method learns.
        cache_rate: share of the volumes that the run keeps in memory; too little free memory is a fault.
        fewest: least number of cases in a section; a distributed run needs one for each process.
        smallest_px: least length of an image's sides.

    Raises:
        SystemExit: with the sentence, which Python prints without a traceback, and exit status 1.
    """
    try:
        rows = check_datalist(datalist, dataset_dir, needs=needs, classes=classes)
        voxels = sum(math.prod(shape) for row in rows for shape in row.shapes)
        run_faults.check_counts(datalist, {row.section: row.entries for row in rows}, fewest)
        run_faults.check_smallest(datalist, {row.section: row.shapes for row in rows}, smallest_px)
        run_faults.check_memory(datalist, cache_rate * voxels * _BYTES_PER_VOXEL)
    except DataFault as error:
        raise SystemExit(str(error)) from None
    return rows


def _check_entries(datalist: str | Path, dataset_dir: str | Path, content: Mapping[str, Any]) -> None:
    """Check what the datalist alone can tell, in all sections, used or not."""
    owner: dict[str, str] = {}
    for section in sections_of(content):
        for number, entry in enumerate(entries_of(datalist, content, section), start=1):
            located(datalist, dataset_dir, entry)
            for key in entry:
                if key.startswith(("image_", "label_")):
                    found = f"entry {number} of {section!r} has the key {key!r}"
                    expected = "another name, because MONAI's Spacingd stops at keys that begin with image_ or label_"
                    raise fault(datalist, section, found=found, expected=expected)
            group = None if entry.get("group") is None else str(entry["group"])
            if group is not None and owner.setdefault(group, section) != section:
                found = f"the group {group!r} is in {owner[group]!r} and {section!r}"
                raise fault(datalist, "group", found=found, expected="each patient, slide or field in one section only")


def _plan(
    datalist: str | Path, dataset_dir: str | Path, content: Mapping[str, Any], section: str, keys: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Give the entries of a section with absolute paths, and only the path keys that the check must read."""
    entries = entries_of(datalist, content, section)
    if not entries:
        raise fault(datalist, section, found="the section is empty", expected="at least one entry")
    wanted = ("image",) if keys is None else tuple(key for key in keys if key != "annotations")
    for number, entry in enumerate(entries, start=1):
        for key in wanted:
            if key not in entry:
                raise fault(datalist, section, found=f"entry {number} has no key {key!r}", expected="one in each entry")
    # Points and labels are judged against their image, so that it is read with them.
    read = PATH_KEYS if keys is None else {"image", *wanted}
    paths = [located(datalist, dataset_dir, entry) for entry in entries]
    return [{key: entry[key] for key in PATH_KEYS if key in read and key in entry} for entry in paths]


def _check_section(
    section: str,
    plan: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    sizes: Sizes,
    progress: tqdm,
) -> SectionSummary:
    row = SectionSummary(section, len(plan))
    for entry in plan:
        if "image" in entry:
            _check_entry(entry, names, sizes, row)
        progress.update()
    return row


def _check_entry(entry: Mapping[str, Any], names: Mapping[int, str], sizes: Sizes, row: SectionSummary) -> None:
    files = entry["image"]
    first = files if isinstance(files, str) else files[0]
    image = faults.read_volume(files, key="image")
    faults.check_finite(image, first, key="image")
    values = image.numpy()
    row.shapes.append(tuple(image.shape[1:]))
    row.spacings_mm.append(tuple(image.pixdim.tolist()[: image.ndim - 1]))
    row.intensities.append((float(values.min()), float(values.max())))
    if image.ndim == 3:
        sizes[Path(first).name].add((image.shape[1], image.shape[2]))
    if "label" in entry:
        _check_label(entry["label"], image, names, row)
    if "points" in entry:
        row.points.append(point_faults.check_points(entry["points"], image))


def _check_label(file: str, image: MetaTensor, names: Mapping[int, str], row: SectionSummary) -> None:
    label = faults.read_volume(file, key="label")
    faults.check_finite(label, file, key="label")
    faults.check_same_grid(image, label, file)
    if faults.is_instance_map(label, file):
        row.instances.append(int(np.count_nonzero(np.unique(label.numpy()))))
        return
    unit = float(np.prod(image.pixdim.numpy())) / 1000 if image.ndim == 4 else 1.0
    for value, count in faults.check_mask(label, names, file).items():
        if value:
            row.label_volumes.setdefault(names[value], []).append(count * unit)


def _check_annotations(
    datalist: str | Path,
    dataset_dir: str | Path,
    content: Mapping[str, Any],
    plans: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: Sequence[SectionSummary],
    *,
    sizes: Sizes,
    needs: Mapping[str, Sequence[str]] | None,
) -> None:
    needy = {row.section for row in rows if needs is not None and "annotations" in needs[row.section]}
    if "annotations" not in content:
        if needy:
            found = f"missing, but {min(needy)!r} needs it"
            raise fault(datalist, "annotations", found=found, expected="the COCO file of the instances")
        return
    file = resolve(datalist, dataset_dir, content["annotations"], key="annotations")
    faults.check_exists(file, key="annotations")
    counts = coco_faults.check_coco(file, sizes, set(labels_of(datalist)) - {0} if "labels" in content else ())
    bare = {Path(name).name: count for name, count in counts.items()}
    for row in rows:
        if needs is not None and row.section not in needy:
            continue
        row.annotations = 0
        for entry in plans[row.section]:
            name = Path(os.path.relpath(entry["image"], dataset_dir)).as_posix()
            if row.section in needy and name not in counts and Path(name).name not in bare:
                raise fault(file, "annotations", found=f"it names no image {name}", expected=f"each of {row.section!r}")
            row.annotations += counts.get(name, bare.get(Path(name).name, 0))
        if row.section in needy and not row.annotations:
            found = f"none of its {row.entries} images has an annotation in {Path(file).name}"
            raise fault(datalist, row.section, found=found, expected="some instance")
