# SPDX-License-Identifier: Apache-2.0
"""Learning from another network's soft labels (Hinton et al., 2015; Zhai et al., IEEE TMI 2023, Eq. 12-13)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SoftLabelDistillationLoss(nn.Module):
    r"""Kullback-Leibler divergence of softened predictions, averaged over voxels.

    .. math::
        L_{KD} = T^2 \frac{1}{|\Omega|} \sum_{i \in \Omega} \sum_c t_{ic} \log \frac{t_{ic}}{s_{ic}}, \qquad
        s_i = \mathrm{softmax}(z_i^{student} / T), \quad t_i = \mathrm{softmax}(z_i^{teacher} / T)

    Eq. 13 prints the other direction, KL(student || teacher), without :math:`T^2` and over the foreground only. The
    last cannot be meant: for t = 1/2 it is least at s = t / e, so a perfect student would be pushed away. All classes
    are summed here. As default stands what the released code does, which is also the form of Hinton et al. that the
    paper cites: its gradient :math:`T (s - t) / |\Omega|` keeps its size as T grows (softened probabilities approach
    each other as 1/T), whereas without :math:`T^2` the paper's T = 4 would silently weigh the term 16 times less.

    Args:
        temperature: T; higher is softer.
        direction: ``teacher_student`` for KL(teacher || student), ``student_teacher`` as Eq. 13 prints.
        scale_by_t2: multiply with the square of the temperature.

    Raises:
        ValueError: unknown direction, or a temperature that is not positive.
    """

    def __init__(
        self, *, temperature: float = 4.0, direction: str = "teacher_student", scale_by_t2: bool = True
    ) -> None:
        super().__init__()
        if direction not in ("teacher_student", "student_teacher"):
            raise ValueError(f"direction must be 'teacher_student' or 'student_teacher', found {direction!r}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, found {temperature}.")
        self.temperature = temperature
        self.direction = direction
        self.scale = temperature**2 if scale_by_t2 else 1.0

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider; the teacher gets no gradient.

        Args:
            student_logits: (B, C, *S).
            teacher_logits: (B, C, *S).

        Raises:
            ValueError: the shapes differ.
        """
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"Student and teacher must have equal shapes, found {tuple(student_logits.shape)} "
                f"and {tuple(teacher_logits.shape)}."
            )
        dtype = torch.promote_types(student_logits.dtype, torch.float32)
        student = (student_logits.to(dtype) / self.temperature).log_softmax(1)
        teacher = (teacher_logits.detach().to(dtype) / self.temperature).log_softmax(1)
        p, q = (teacher, student) if self.direction == "teacher_student" else (student, teacher)
        return self.scale * (p.exp() * (p - q)).sum(1).mean()
