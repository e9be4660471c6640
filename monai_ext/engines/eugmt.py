# SPDX-License-Identifier: Apache-2.0
"""EUGMT: two students, one averaged teacher, two updates an iteration (Yao et al., CSA 16(2), 2026)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_ext.engines.step import Ramp, Terms, TrainStep
from monai_ext.functional.confident_joint import noisy_pixels
from monai_ext.functional.hard_labels import hard_labels
from monai_ext.functional.patch_mix import mean_entropy, mix_patches

UNSUPERVISED = ("cross_pseudo", "mean_teacher", "consistency")
MIXED = ("mixed_supervised", "mixed_cross_pseudo", "mixed_mean_teacher")
TAUGHT = ("mean_teacher", "consistency", *MIXED)

Loss = Callable[..., Tensor]


class EUGMTStep(TrainStep):
    r"""One iteration of EUGMT, Eq. 8 and Algorithm 1.

    .. math:: L = L_s + \lambda (L_{cps} + L_{ms} + L_c)

    First update: ``supervised`` (Eq. 9), ``cross_pseudo`` (Eq. 10-11), ``mean_teacher`` (Eq. 12-13) and
    ``consistency`` (Eq. 14) on the pixels that Eq. 4-7 take for mislabelled by the student. Second update, on images
    whose uncertain patches were overwritten by certain ones: ``mixed_supervised``, ``mixed_cross_pseudo`` and
    ``mixed_mean_teacher``, against the teacher's first answer, mixed alike. Each term adds up over the students.

    The batch holds ``image`` and ``label`` (B, 1, H, W), ``strong`` (the labelled image's strong view), ``unlabeled``
    and each student's strong view of it, ``strong_<student>``. Labels and views lie on one grid.

    With one student and without the terms that need two, this is a plain mean teacher, and with ``supervised`` alone
    training on the labelled images; without ``consistency`` it is UCMT, and with ``supervised`` and ``cross_pseudo``
    cross pseudo supervision.

    Args:
        students: two networks, ``a`` and ``b`` (one for the methods that need no other).
        teacher: their average, moved by :class:`~monai_ext.handlers.MeanTeacher`; None where no term needs it.
        supervision: loss of (logits, labels (B, 1, H, W)): L_seg.
        consistency: loss of (logits, teacher's logits, mask (B, H, W)).
        weights: by term; 0 removes a term, and the second update where all three of its terms are removed.
        ramps: lambda, for the terms that it multiplies.
        select: pixels that the consistency looks at: ``"noisy"`` as published or ``"all"``.
        trim: leave out pixels on which student and teacher agree, see
            :func:`~monai_ext.functional.confident_joint.noisy_pixels`.
        noise_sd: standard deviation of what is added to the teacher's view for the consistency, in units of the
            normalised image, cut at twice that. The paper is silent; this is its parents' value.
        grid: patches along a side of the image in the second update; ``patches`` of them are overwritten twice.
        patches: see ``grid``.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, nn.Module],
        teacher: nn.Module | None,
        supervision: Loss,
        consistency: Loss,
        weights: Mapping[str, float],
        ramps: Mapping[str, Ramp] | None = None,
        select: Literal["noisy", "all"] = "noisy",
        trim: bool = False,
        noise_sd: float = 0.1,
        grid: int = 16,
        patches: int = 2,
    ) -> None:
        super().__init__(students=students, weights=weights, ramps=ramps, ramp_unit="iteration")
        if select not in ("noisy", "all"):
            raise ValueError(f"select: found {select!r}, expected 'noisy' or 'all'.")
        two = [name for name in self.weights if "cross" in name or name.startswith("mixed")]
        if len(self.students) != (2 if two else len(self.students)):
            raise ValueError(f"{', '.join(two)} need two students, found {sorted(self.students)}.")
        taught = [name for name in self.weights if name in TAUGHT]
        if taught and teacher is None:
            raise ValueError(f"{', '.join(taught)} need a teacher, found none.")
        self.teacher = teacher
        self.supervision = supervision
        self.consistency = consistency
        self.select = select
        self.trim = trim
        self.noise_sd = noise_sd
        self.grid = grid
        self.patches = patches

    def passes(self, batch: Mapping[str, Any]) -> Iterator[Iterator[Terms]]:
        probs: dict[str, dict[str, Tensor]] = {"labeled": {}, "unlabeled": {}}
        yield self.terms(batch, probs)
        if any(self.wants(name) for name in MIXED):
            yield self.mixed_terms(batch, probs)

    def terms(self, batch: Mapping[str, Any], probs: dict[str, dict[str, Tensor]] | None = None) -> Iterator[Terms]:
        """The first update's terms, each student's in a group; ``probs`` collects what the second one mixes by."""
        probs = {"labeled": {}, "unlabeled": {}} if probs is None else probs
        for name, student in self.students.items():
            logits = student(batch["image"])
            probs["labeled"][name] = _probs(logits)
            if self.wants("supervised"):
                yield {"supervised": self.supervision(logits, batch["label"])}
        if any(self.wants(name) for name in MIXED):
            probs["labeled"]["teacher"] = _probs(self._teach(batch["image"]))
        if not any(self.wants(name) for name in (*UNSUPERVISED, *MIXED)):
            return
        every = {name: student(batch[f"strong_{name}"]) for name, student in self.students.items()}
        probs["unlabeled"].update({name: _probs(logits) for name, logits in every.items()})
        if any(self.wants(name) for name in TAUGHT):
            probs["unlabeled"]["teacher"] = _probs(self._teach(batch["unlabeled"]))
        noised = self._teach(self._noise(batch["unlabeled"])) if self.wants("consistency") else None
        for name in self.students:
            logits = every.pop(name)  # whose graph nothing holds any longer when its gradient has been taken
            terms = self._pseudo(logits, name, probs["unlabeled"])
            if noised is not None:
                terms["consistency"] = self.consistency(logits, noised, self._selected(name, probs["unlabeled"]))
            if terms:
                yield terms

    def mixed_terms(self, batch: Mapping[str, Any], probs: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Terms]:
        """The second update's terms, on mixed images."""
        image, label = self._mix([batch["strong"], batch["label"]], probs["labeled"])
        if self.wants("mixed_supervised"):
            for student in self.students.values():
                yield {"mixed_supervised": self.supervision(student(image), label)}
        first = next(iter(self.students))
        unlabeled, taught = self._mix(
            [batch[f"strong_{first}"], probs["unlabeled"]["teacher"]],
            probs["unlabeled"],
        )
        every = {name: student(unlabeled) for name, student in self.students.items()}
        mixed = {"teacher": taught, **{name: _probs(logits) for name, logits in every.items()}}
        for name in self.students:
            yield self._pseudo(every.pop(name), name, mixed, prefix="mixed_")

    def _pseudo(self, logits: Tensor, name: str, probs: Mapping[str, Tensor], *, prefix: str = "") -> Terms:
        """Supervision by hard labels: the other student's (Eq. 11) and the teacher's (Eq. 13)."""
        others = [other for other in self.students if other != name]
        sources = {f"{prefix}cross_pseudo": others, f"{prefix}mean_teacher": ["teacher"]}
        return {
            term: self.supervision(logits, hard_labels(probs[source])[:, None])
            for term, names in sources.items()
            for source in names
            if self.wants(term)
        }

    @torch.no_grad()
    def _teach(self, image: Tensor) -> Tensor:
        assert self.teacher is not None
        return self.teacher(image)

    def _noise(self, image: Tensor) -> Tensor:
        return image + (torch.randn_like(image) * self.noise_sd).clamp(-2 * self.noise_sd, 2 * self.noise_sd)

    def _selected(self, name: str, probs: Mapping[str, Tensor]) -> Tensor:
        labels = hard_labels(probs[name])
        return noisy_pixels(labels, probs["teacher"], trim=self.trim) if self.select == "noisy" else labels >= 0

    def _mix(self, arrays: list[Tensor], probs: Mapping[str, Tensor]) -> list[Tensor]:
        maps = [mean_entropy(probs[name], probs["teacher"]) for name in self.students]
        return list(mix_patches(arrays, *maps, grid=self.grid, k=self.patches))


def _probs(logits: Tensor) -> Tensor:
    """Softmax without gradient, in float32 or wider."""
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
