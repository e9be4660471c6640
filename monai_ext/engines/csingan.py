# SPDX-License-Identifier: Apache-2.0
"""CSinGAN: for each annotated patch a generator learns, scale after scale, to draw images for masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_ext.engines.step import Terms, TrainStep
from monai_ext.functional.scales import resize_image, resize_mask
from monai_ext.networks.sin_gan import COMPONENTS, ComponentCritics, ConditionalSinGAN

CriticLoss = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]


class Stage(NamedTuple):
    """What an epoch trains."""

    patch: int
    """Place of the patch."""
    scale: int
    """n, 0 is the coarsest."""


class CSinGANStep(TrainStep):
    r"""One iteration of CSinGAN (Lou et al., IEEE TMI 2022, Eq. 2 to 4): updates of the critics, one of a generator.

    .. math:: L = \beta L_{adv}(D_g, y_n, x_n) + \gamma L_{adv}(D_f, y_n \otimes m_n, x_n \otimes r_n)
        + \delta L_{adv}(D_b, y_n \otimes \neg m_n, x_n \otimes \neg r_n) + \alpha L_{rec}

    The patches have their turn one after another, and of each its scales from the coarsest on, ``epochs_per_scale``
    epochs each; finished scales are frozen and in evaluation mode. The terms are ``critic_global``,
    ``critic_foreground`` and ``critic_background``, what the critics minimise, added up over their updates;
    ``global``, ``foreground`` and ``background``, the generator's; and ``reconstruction``. A fresh image is drawn for
    each update, with noise at every scale, and masking, resizing and gradient stay on the device.

    A scale begins with the weights of the one before where the widths are equal, and its noise with a share of how far
    the reconstruction so far is from the patch (SinGAN).

    The batch holds ``image`` (B, C, H, W), the patch from -1 to 1, ``real_mask`` (B, 1, H, W), its own mask, and
    ``mask`` (B, 1, H, W), synthetic ones. All items are of one patch.

    Args:
        generators: of each patch.
        critics: of each patch, of each of its scales.
        critic_loss: Eq. 4.
        weights: by term: beta, gamma and delta both for the critics and the generator, and alpha; 0 removes a critic.
        epochs_per_scale: epochs of a scale.
        critic_updates: of the critics before each of the generator.
        noise_share: of the root mean squared error, for the noise's amplitude at all scales but the coarsest.

    Raises:
        ValueError: another number of generators than of critics, or a critic that one side has a weight for and the
            other has not.
    """

    def __init__(
        self,
        *,
        generators: Sequence[ConditionalSinGAN],
        critics: Sequence[Sequence[ComponentCritics]],
        critic_loss: CriticLoss,
        weights: Mapping[str, float],
        epochs_per_scale: int = 500,
        critic_updates: int = 3,
        noise_share: float = 0.1,
    ) -> None:
        super().__init__(students={}, weights=weights)
        if [len(generator.sizes) for generator in generators] != [len(some) for some in critics]:
            raise ValueError(
                f"critics: found {[len(some) for some in critics]} scales, expected those of the generators."
            )
        self.components = [name for name in COMPONENTS if self.wants(name)]
        if self.components != [name for name in COMPONENTS if self.wants(f"critic_{name}")]:
            raise ValueError(
                f"weights: found {sorted(self.weights)}, expected a critic_... for each component and back."
            )
        self.generators, self.critics = list(generators), [list(some) for some in critics]
        self.critic_loss = critic_loss
        self.epochs_per_scale = epochs_per_scale
        self.critic_updates = critic_updates
        self.noise_share = noise_share
        self._stage: Stage | None = None
        self._length = 1

    @property
    def epochs(self) -> int:
        """Epochs of all scales of all patches."""
        return self.ends[-1]

    @property
    def ends(self) -> list[int]:
        """Of each patch how many epochs are over when its last scale is."""
        scales = [len(generator.sizes) for generator in self.generators]
        return [self.epochs_per_scale * sum(scales[: patch + 1]) for patch in range(len(scales))]

    def stage_of(self, epoch: int) -> Stage:
        """What is trained after ``epoch`` finished epochs."""
        turn = epoch // self.epochs_per_scale
        for patch, generator in enumerate(self.generators):
            if turn < len(generator.sizes):
                return Stage(patch, turn)
            turn -= len(generator.sizes)
        raise ValueError(f"epoch: found {epoch}, expected less than {self.epochs}.")

    def terms(self, batch: Mapping[str, Any]) -> Terms:
        """The generator's."""
        generator, critics, scale = self._now()
        drawn, mask = self._draw(batch["mask"])
        found: Terms = {}
        for name in self.components:
            found[name] = -critics(name, critics.part(name, drawn, mask)).mean()
        if self.wants("reconstruction"):
            real = resize_image(batch["image"][:1], generator.sizes[scale])
            real_mask, noises = batch["real_mask"][:1], generator.anchors(scale)
            again = generator.refine(self._coarser(real_mask, noises), real_mask, scale=scale, noise=noises[scale])
            found["reconstruction"] = torch.nn.functional.mse_loss(again, real)
        return found

    def critic_terms(self, batch: Mapping[str, Any]) -> Terms:
        """The critics', on another drawing."""
        generator, critics, scale = self._now()
        real, real_mask = batch["image"], batch["real_mask"]
        real, real_mask = resize_image(real, generator.sizes[scale]), resize_mask(real_mask, generator.sizes[scale])
        with torch.no_grad():
            drawn, mask = self._draw(batch["mask"])
        found: Terms = {}
        for name in self.components:
            parts = (critics.part(name, real, real_mask), critics.part(name, drawn, mask))
            found[f"critic_{name}"] = self.critic_loss(partial(critics, name), *parts)
        return found

    def passes(self, batch: Mapping[str, Any]) -> Iterator[Terms]:
        self._enter(self.stage_of(self._epoch()), batch)
        generator, critics, scale = self._now()
        for _ in range(self.critic_updates if self.components else 0):
            _learn(critics, generator.generators[scale])
            yield self.critic_terms(batch)
        _learn(generator.generators[scale], critics)
        yield self.terms(batch)

    def __call__(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        self._length = engine.state.epoch_length
        return super().__call__(engine, batchdata)

    def _epoch(self) -> int:
        return self.iteration // self._length

    def _now(self) -> tuple[ConditionalSinGAN, ComponentCritics, int]:
        assert self._stage is not None
        return self.generators[self._stage.patch], self.critics[self._stage.patch][self._stage.scale], self._stage.scale

    def _enter(self, stage: Stage, batch: Mapping[str, Any]) -> None:
        """Freezes all else when a stage begins, and at its very first iteration starts it from the scale before."""
        if stage != self._stage:
            self._stage = stage
            for network in (*self.generators, *(one for some in self.critics for one in some)):
                _freeze(network)
            generator, critics, scale = self._now()
            generator.generators[scale].train()
            critics.train()
        if self.iteration % (self.epochs_per_scale * self._length) == 0 and stage.scale:
            self._start(batch)

    @torch.no_grad()
    def _start(self, batch: Mapping[str, Any]) -> None:
        generator, critics, scale = self._now()
        before = self.critics[self._stage.patch][scale - 1] if self._stage else critics
        for new, old in ((generator.generators[scale], generator.generators[scale - 1]), (critics, before)):
            state = old.state_dict()
            if all(value.shape == state[name].shape for name, value in new.state_dict().items()):
                new.load_state_dict(state)
        real = resize_image(batch["image"][:1], generator.sizes[scale])
        error = (self._coarser(batch["real_mask"][:1], generator.anchors(scale)) - real).square().mean().sqrt()
        generator.amplitudes[scale] = self.noise_share * error

    def _draw(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A new image of the scale for each mask, and the mask at that scale."""
        generator, _, scale = self._now()
        noises = generator.noises(mask, scale=scale)
        drawn = generator.refine(self._coarser(mask, noises), mask, scale=scale, noise=noises[scale])
        return drawn, resize_mask(mask, generator.sizes[scale])

    @torch.no_grad()
    def _coarser(self, mask: Tensor, noises: Sequence[Tensor | None]) -> Tensor:
        """What the frozen scales draw, at this one's size."""
        generator, _, scale = self._now()
        if scale == 0:
            return mask.new_zeros(len(mask), generator.image_channels, *generator.sizes[0])
        return resize_image(generator(mask, scale=scale - 1, noises=noises), generator.sizes[scale])


def _learn(module: nn.Module, other: nn.Module) -> None:
    module.requires_grad_(True)
    other.requires_grad_(False)


def _freeze(module: nn.Module) -> None:
    module.requires_grad_(False)
    module.eval()
