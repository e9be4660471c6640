# SPDX-License-Identifier: Apache-2.0
"""Networks that are trained one after another: their weights when each is finished, and pictures meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_ext.handlers.checkpoint import cpu_state_dict, save_atomically
from monai_ext.handlers.draw import PREDICTION_RGB, REFERENCE_RGB, png_bytes, sheet
from monai_ext.handlers.draw_pairs import outlined
from monai_ext.handlers.files import write_atomically
from monai_ext.handlers.report_data import OVERLAYS, OVERLAYS_INDEX
from monai_ext.networks.sin_gan import ConditionalSinGAN


class SaveInTurn:
    """Writes the weights of each network when its turn is over, whole or not at all.

    List it before the checkpoint, so that a resumed run has not missed one.

    Args:
        networks: in the order of their turns.
        paths: of their files.
        ends: of each how many epochs are over then.
    """

    def __init__(self, networks: Sequence[torch.nn.Module], paths: Sequence[str | Path], ends: Sequence[int]) -> None:
        self.turns = list(zip(networks, paths, ends, strict=True))

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for network, path, end in self.turns:
            if engine.state.epoch == end:
                save_atomically(cpu_state_dict(network), path)


class TurnPictures:
    """Draws the patch whose turn it is as far as its generator has come, for ``report.html``.

    From left to right: the patch with its own mask in blue; the same as the generator draws it; and for each of the
    first synthetic masks what is drawn for it, without and with that mask in orange. The file of each patch,
    ``overlays/<name>.png``, is drawn anew as it learns, and stays when it is finished.

    Args:
        output_dir: the run's folder.
        generators: of each patch.
        dataset: what :class:`~monai_ext.data.SyntheticMaskDataset` gives.
        stage_of: patch and scale that are trained after so many epochs.
        every: epochs between pictures; there is one at the end of each scale.
        masks: how many synthetic ones.
        summary_writer: a TensorBoard ``SummaryWriter`` that gets the same pictures.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        generators: Sequence[ConditionalSinGAN],
        dataset: Any,
        stage_of: Callable[[int], tuple[int, int]],
        every: int = 5,
        masks: int = 2,
        summary_writer: Any | None = None,
    ) -> None:
        self.folder = Path(output_dir) / OVERLAYS
        self.generators, self.dataset, self.stage_of = list(generators), dataset, stage_of
        self.every, self.masks, self.summary_writer = every, min(masks, dataset.number), summary_writer

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        epoch, last = engine.state.epoch, engine.state.max_epochs
        stage = self.stage_of(epoch - 1)
        if epoch % self.every and epoch != last and self.stage_of(epoch) == stage:
            return
        patch, scale = stage
        drawn = self.draw(patch, scale)
        name = self.dataset.names[patch]
        write_atomically(self.folder / f"{name}.png", png_bytes(drawn))
        sizes = self.generators[patch].sizes
        size = " x ".join(map(str, sizes[scale]))
        caption = f"{name}, scale {scale + 1} of {len(sizes)} ({size} px), epoch {epoch}"
        self._list({"rank": f"patch_{patch + 1}", "name": caption, "dice": None, "file": f"{name}.png"}, epoch=epoch)
        if self.summary_writer is not None:
            self.summary_writer.add_image(f"patch/{name}", drawn, epoch, dataformats="HWC")

    @torch.no_grad()
    def draw(self, patch: int, scale: int) -> Any:
        """The picture (H, W, 3) of a patch at a scale."""
        network, first = self.generators[patch], patch * self.dataset.number
        items = [self.dataset[first + n] for n in range(self.masks)]
        current = network.generators[scale]
        training = current.training
        current.eval()
        real = self._on_device(items[0]["real_mask"], network)
        again = network(real, scale=scale, noises=network.anchors(scale))[0]
        label = self.dataset.patches[patch]["label"]
        row = [outlined(items[0]["image"], label, REFERENCE_RGB), outlined(again, None, REFERENCE_RGB)]
        for item in items:
            mask = self._on_device(item["mask"], network)
            image = network(mask, scale=scale, noises=network.noises(mask, scale=scale))[0]
            row += [outlined(image, shown, PREDICTION_RGB) for shown in (None, item["instances"])]
        current.train(training)
        return sheet([row])

    @staticmethod
    def _on_device(mask: torch.Tensor, network: ConditionalSinGAN) -> torch.Tensor:
        return mask[None].to(network.amplitudes)

    def _list(self, shown: dict[str, Any], *, epoch: int) -> None:
        """Puts a picture into the index, in place of its former one."""
        index = self.folder / OVERLAYS_INDEX
        listed = json.loads(index.read_text(encoding="utf8"))["shown"] if index.exists() and epoch > self.every else []
        listed = [one for one in listed if one["rank"] != shown["rank"]] + [shown]
        write_atomically(index, json.dumps({"shown": listed, "cases": []}, indent=1))
