# SPDX-License-Identifier: Apache-2.0
"""CKS's principal network: finds cells and segments each one in a window around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from monai_ext.functional.instance_map import paint_instances
from monai_ext.functional.point_nms import distance_nms
from monai_ext.functional.point_targets import decode
from monai_ext.networks.convnext_fpn import STRIDES, ConvNeXtFPN


class PointInstanceNet(nn.Module):
    """Detection by points at several scales, segmentation in windows.

    ``forward`` takes an image to its instance label map and is scriptable. Training uses the parts:
    :py:meth:`features`, :py:meth:`detect`, :py:meth:`locate`, :py:meth:`segment`. Locations are in px with the corner
    origin. Source: Yu, "Point-supervised single-cell segmentation via collaborative knowledge sharing", section III-A.

    Args:
        backbone: gives features at strides 4, 8, 16 and 32, of the same number of channels.
        channels: of the backbone's levels and of the heads.
        mask_channels: of what a window is segmented from.
        window_px: side of the window, a multiple of 16 larger than any cell.
        detection_levels: number of scales that cells are detected at, from the finest on. The paper says all four; its
            code uses three, as few points have a grid location near enough at stride 32.
        position_encoding: ``"learned"`` from the features at the cell, or ``"fixed"``, the same for all (Table II).
        detector_norm: of the detection head: ``"instance"`` normalises each channel over the image, as the paper's code
            does; ``"layer"`` all channels of a pixel, so that how empty the rest of the image is does not matter.
        nms_px: detections closer than this are one cell.
        score_threshold: detections below it are dropped.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        backbone: ConvNeXtFPN,
        *,
        channels: int = 256,
        mask_channels: int = 64,
        window_px: int = 96,
        detection_levels: int = 3,
        position_encoding: str = "learned",
        detector_norm: str = "instance",
        nms_px: float = 8.0,
        score_threshold: float = 0.2,
    ) -> None:
        super().__init__()
        if window_px % 16 or window_px <= 0:
            raise ValueError(f"window_px: found {window_px}, expected a multiple of 16.")
        if not 1 <= detection_levels <= len(STRIDES):
            raise ValueError(f"detection_levels: found {detection_levels}, expected 1 to {len(STRIDES)}.")
        if position_encoding not in ("learned", "fixed"):
            raise ValueError(f"position_encoding: found {position_encoding!r}, expected 'learned' or 'fixed'.")
        if detector_norm not in ("instance", "layer"):
            raise ValueError(f"detector_norm: found {detector_norm!r}, expected 'instance' or 'layer'.")
        self.backbone = backbone
        self.stride, self.divisor = STRIDES[0], STRIDES[-1]
        self.window_px = window_px
        self.detection_levels = detection_levels
        self.nms_px = nms_px
        self.score_threshold = score_threshold
        self.detector = _convolutions(channels, 4, detector_norm)
        self.score = nn.Conv2d(channels, 1, 1)
        self.offset = nn.Conv2d(channels, 2, 1)
        last = nn.Conv2d(channels, mask_channels, 3, padding=1)
        self.trunk = nn.Sequential(_convolutions(channels, 3, "instance"), last)
        self.encoding: nn.Module
        if position_encoding == "learned":
            self.encoding = LearnedEncoding(channels, mask_channels)
        else:
            self.encoding = FixedEncoding(mask_channels)
        self.mask = nn.ConvTranspose2d(mask_channels, 1, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) of any size to label maps (B, 1, H, W), float32; 1 to N are cells by falling score."""
        found: list[Tensor] = []
        for number in range(image.shape[0]):
            _, scores, logits, origin = self.instances(image[number : number + 1])
            found.append(paint_instances(logits, origin, scores, image.shape[2], image.shape[3])[:, :1])
        return torch.cat(found)

    @torch.jit.export
    def instances(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The cells of one image (1, C, H, W), by falling score.

        Returns:
            locations (N, 2), scores (N,), mask logits (N, window_px, window_px), first pixels of the windows (N, 2).
        """
        levels = self.features(image)
        locations, scores, _ = self.locate(self.detect(levels), image.shape[2], image.shape[3])
        logits, origin = self.segment(
            levels[0], locations, torch.zeros(len(locations), dtype=torch.long, device=image.device)
        )
        return locations, scores, logits, origin

    @torch.jit.export
    def features(self, image: Tensor) -> list[Tensor]:
        """The backbone's levels, of the image filled up with zeros to sides that 32 divides."""
        height, width = image.shape[2], image.shape[3]
        return self.backbone(F.pad(image, [0, -width % self.divisor, 0, -height % self.divisor]))

    @torch.jit.export
    def detect(self, levels: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Score logits (B, 1, h, w) and offsets (B, 2, h, w) in grid cells, of each detection level."""
        found: list[tuple[Tensor, Tensor]] = []
        for level in levels[: self.detection_levels]:
            x = self.detector(level)
            found.append((self.score(x), self.offset(x)))
        return found

    @torch.jit.export
    def locate(self, detections: list[tuple[Tensor, Tensor]], height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """One detection a cell.

        Args:
            detections: what :py:meth:`detect` gives.
            height, width: of the images; detections off them, as in the padding, take out no others.

        Returns:
            locations (N, 2), scores (N,) and images int64 (N,); within an image by falling score.
        """
        batch = detections[0][0].shape[0]
        locations, scores, images = [], [], []
        for number in range(batch):
            places, values, stride = [], [], self.stride
            for logits, offset in detections:
                places.append(decode(offset[number : number + 1].float(), stride=stride)[0].flatten(1).t())
                values.append(logits[number].float().sigmoid().flatten())
                stride *= 2
            place, value = torch.cat(places), torch.cat(values)
            inside = (place >= 0).all(1) & (place[:, 0] < height) & (place[:, 1] < width)
            kept = inside & (value >= self.score_threshold)
            place, value = place[kept], value[kept]
            chosen = distance_nms(place, value, self.nms_px)
            locations.append(place[chosen])
            scores.append(value[chosen])
            images.append(torch.full_like(chosen, number))
        return torch.cat(locations), torch.cat(scores), torch.cat(images)

    @torch.jit.export
    def segment(self, level: Tensor, locations: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of the cells at given locations.

        Args:
            level: the finest features (B, channels, H / 4, W / 4).
            locations: (N, 2); no gradient passes.
            image: int64 (N,), which image of the batch.

        Returns:
            logits (N, window_px, window_px), and int64 (N, 2), the first pixel of each window, which may be negative.
        """
        size = self.window_px // self.stride
        first = (locations / self.stride).floor().long() - size // 2
        seen = _gather(self.trunk(level), first, image, size)
        seen = F.relu(seen + self.encoding(level, locations, image, size))
        logits = F.interpolate(
            self.mask(seen), size=[self.window_px, self.window_px], mode="bilinear", align_corners=False
        )
        return logits[:, 0], first * self.stride


class LearnedEncoding(nn.Module):
    """Where in the window the cell is, from the features at its location: it makes the window's mask that of one cell.

    Args:
        channels: of the features.
        out_channels: of the encoding.
        side: of the encoding before it is resized to the window.
        depth: its channels then.
        hidden: width of the layers.
    """

    def __init__(self, channels: int, out_channels: int, *, side: int = 8, depth: int = 4, hidden: int = 256) -> None:
        super().__init__()
        self.side, self.depth, self.stride = side, depth, STRIDES[0]
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, side * side * depth),
        )  # fmt: skip
        self.mix = nn.Conv2d(depth, out_channels, 1, bias=False)

    def forward(self, level: Tensor, locations: Tensor, image: Tensor, size: int) -> Tensor:
        """(N, out_channels, size, size). The features are the mean of the four around the location."""
        corner = (locations / self.stride).round().long() - 1
        around = _gather(level, corner, image, 2).mean((2, 3))
        coarse = self.layers(around).view(len(locations), self.depth, self.side, self.side)
        # A convolution of one pixel and the resizing may change places; this order is the cheaper one.
        return F.interpolate(self.mix(coarse), size=[size, size], mode="bilinear", align_corners=False)


class FixedEncoding(nn.Module):
    """Two ramps along the axes, the same for every cell (the ablation of Table II)."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, out_channels, 1, bias=False)

    def forward(self, level: Tensor, locations: Tensor, image: Tensor, size: int) -> Tensor:
        """(N, out_channels, size, size)."""
        ramp = torch.linspace(-1, 1, size, device=level.device, dtype=level.dtype)
        ramps = torch.stack([ramp[:, None].expand(size, size), ramp[None, :].expand(size, size)])
        return self.mix(ramps[None]).expand(len(locations), -1, -1, -1)


def _convolutions(channels: int, number: int, norm: str) -> nn.Sequential:
    """3x3 convolutions with normalisation and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(number):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        layers.append(
            nn.InstanceNorm2d(channels, eps=1e-6, affine=True) if norm == "instance" else LayerNorm2d(channels)
        )
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _gather(maps: Tensor, first: Tensor, image: Tensor, size: int) -> Tensor:
    """Windows (N, C, size, size) of maps (B, C, h, w), 0 off them: ``gather_windows``, made scriptable."""
    height, width = maps.shape[2], maps.shape[3]
    canvas = F.pad(maps, [size, size, size, size]).permute(0, 2, 3, 1)
    high = torch.tensor([height + size, width + size], device=first.device)
    first = torch.minimum((first + size).clamp_min(0), high)
    steps = torch.arange(size, device=first.device)
    rows = first[:, 0, None] + steps
    columns = first[:, 1, None] + steps
    index = (image[:, None, None] * canvas.shape[1] + rows[:, :, None]) * canvas.shape[2] + columns[:, None, :]
    found = canvas.reshape(-1, maps.shape[1]).index_select(0, index.flatten())
    return found.view(len(first), size, size, maps.shape[1]).permute(0, 3, 1, 2)
