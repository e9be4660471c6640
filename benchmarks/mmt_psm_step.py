# SPDX-License-Identifier: Apache-2.0
"""An iteration of MMT-PSM beside a supervised one, and against the same with every view on its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.memory import peak_mb

BATCH, SIZE, CELLS = 2, 512, 8
USUAL, MOST = 0.1, 0.6
"""Which share of the proposals the untrained network takes for cells. Twice as many are mined, or all. After training
``small.json`` on phantoms it is 2 to 4 % of 2000 proposals."""
ROUNDS = 2


def run() -> list[dict[str, Any]]:
    """Before the start and after it, by a supervised iteration, also with every proposal mined; views one by one."""
    kinds = ("supervised", "before", "after", "every", "apart")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        seconds = pool.apply(_seconds, (kinds,))
        megabytes = {kind: pool.apply(_megabytes, (kind,)) for kind in kinds}
    size = f"{BATCH} + {BATCH} of {SIZE}x{SIZE}, K = 2, L = 1, ResNet-50"

    def row(what: str, ours: str, reference: str, *, multiple: bool) -> dict[str, Any]:
        pair = (ours, reference) if multiple else (reference, ours)
        return {
            "what": what,
            "size": size,
            "ours_s": seconds[ours],
            "reference_s": seconds[reference],
            "ratio": seconds[pair[0]] / seconds[pair[1]],
            "ours_mb": megabytes[ours],
            "reference_mb": megabytes[reference],
        }

    return [
        row(f"MMT-PSM iteration, {USUAL:.0%} foreground, by a supervised one", "after", "supervised", multiple=True),
        row("MMT-PSM iteration, every proposal mined, by a supervised one", "every", "supervised", multiple=True),
        row("before the start, as a multiple of a supervised one", "before", "supervised", multiple=True),
        row("views batched against one by one", "after", "apart", multiple=False),
    ]


def _iterations(kind: str) -> Callable[[], None]:
    """A function that does one iteration."""
    import torch
    from monai.engines import SupervisedTrainer
    from monai.utils import set_determinism

    from benchmarks.reference.mmt_psm_apart import terms_apart
    from monai_ext.engines import MMTPSMStep
    from monai_ext.handlers import MeanTeacher
    from monai_ext.losses import MaskGuidedDistillationLoss, SensitiveSampleLoss
    from monai_ext.networks import CellMaskRCNN, DetectorTraining

    losses = {"psm": SensitiveSampleLoss(), "mgd": MaskGuidedDistillationLoss()}

    class Apart(MMTPSMStep):
        """Every view of every image on its own."""

        def terms(self, batch: Mapping[str, Any]) -> dict[str, Any]:
            return terms_apart(batch, student=student, teacher=self.teacher, losses=losses)

    set_determinism(0)
    names = ("image", "teacher_0", "teacher_1", "student_0")
    batch = {name: torch.randn(BATCH, 3, SIZE, SIZE) for name in names} | {"target": [_target() for _ in range(BATCH)]}
    student = DetectorTraining(CellMaskRCNN(norm="group"))
    _set_foreground(student.network, batch["teacher_0"], share=MOST if kind == "every" else USUAL)
    terms = ["rpn_objectness", "rpn_box", "class", "box", "mask"] + ["psm", "mgd"] * (kind != "supervised")
    mean_teacher = MeanTeacher({"student": student}, buffers="copy", start=10**6 if kind == "before" else 0)
    step = (Apart if kind == "apart" else MMTPSMStep)(
        student=student,
        teacher=None if kind == "supervised" else mean_teacher.teacher,
        losses=losses,
        mine=losses["psm"].mined,
        weights=dict.fromkeys(terms, 1.0),
        start_iteration=10**6 if kind == "before" else 0,
    )
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch],
        network=student,
        optimizer=torch.optim.SGD(student.parameters(), lr=1e-5),
        loss_function=None,
        iteration_update=step,
        train_handlers=[] if kind == "supervised" else [mean_teacher],
        decollate=False,
    )

    def iterate() -> None:
        trainer.state.max_epochs = trainer.state.epoch + 1
        trainer.run()

    return iterate


def _set_foreground(network: Any, image: Any, *, share: float) -> None:
    """Moves the background's logit so that a share of the proposals in the images is above it."""
    import torch

    with torch.no_grad():
        levels, size = network.features(image), (SIZE, SIZE)
        logits, *_ = network.eval().rois(levels, network.proposals(levels, size), size)
        above = logits[:, 1:].amax(1) - logits[:, 0]
        network.roi_heads.box_predictor.cls_score.bias[0] += above.quantile(1 - share)
    network.train()


def _target() -> dict[str, Any]:
    """Discs, of both classes in turn."""
    import torch

    centre = torch.randint(60, SIZE - 60, (CELLS, 2)).float()
    radius = torch.tensor([50.0, 15.0]).repeat(CELLS // 2)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    far = (rows - centre[:, 0, None, None]) ** 2 + (columns - centre[:, 1, None, None]) ** 2
    corner = torch.stack([centre[:, 1], centre[:, 0]], 1)
    return {
        "boxes": torch.cat([corner - radius[:, None], corner + radius[:, None]], 1),
        "labels": torch.arange(CELLS) % 2 + 1,
        "masks": (far <= radius[:, None, None] ** 2).to(torch.uint8),
    }


def _seconds(kinds: tuple[str, ...]) -> dict[str, float]:
    tasks = {kind: _iterations(kind) for kind in kinds}
    measured: dict[str, list[float]] = {kind: [] for kind in tasks}
    for _ in range(ROUNDS):  # the first one warms up, and is seldom the least
        for kind, iterate in tasks.items():
            start = time.perf_counter()
            iterate()
            measured[kind].append(time.perf_counter() - start)
    return {kind: min(values) for kind, values in measured.items()}


def _megabytes(kind: str) -> float:
    return peak_mb(_iterations(kind))
