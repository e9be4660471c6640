# SPDX-License-Identifier: Apache-2.0
"""What a result depends on besides the configuration: versions, device, threads, seed, command."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import monai
import torch

import monai_ext


def run_info(seed: int | None = None) -> dict[str, Any]:
    """Facts about this process that belong beside its results, as plain JSON values.

    Args:
        seed: the run's seed; ``None`` where it has none.

    Returns:
        ``time`` (local, ISO 8601 with offset), ``seed``, ``python``, ``torch``, ``monai``, ``monai_ext``, ``device``,
        ``cuda`` (version or ``None``), ``cpu_threads``, ``system`` and ``command``.
    """
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seed": seed,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "monai_ext": monai_ext.__version__,
        "device": _device_name(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "cpu_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "command": _command(),
    }


def _device_name() -> str:
    if not torch.cuda.is_available():
        return "CPU"
    count = torch.cuda.device_count()
    return torch.cuda.get_device_name() + (f" (1 of {count})" if count > 1 else "")


def _command() -> str:
    """The command line as one would type it: ``python -m package.module``, not the path of its file."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name:
        return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]])
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
