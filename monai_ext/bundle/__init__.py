# SPDX-License-Identifier: Apache-2.0
"""What a bundle run checks before it starts."""

from monai_ext.bundle.overrides import stop_on_unknown_keys
from monai_ext.bundle.weights import check_weights, load_weights

__all__ = ["check_weights", "load_weights", "stop_on_unknown_keys"]
