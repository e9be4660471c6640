# SPDX-License-Identifier: Apache-2.0

"""Networks that neither MONAI nor torchvision has."""
