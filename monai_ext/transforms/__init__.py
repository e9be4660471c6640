# SPDX-License-Identifier: Apache-2.0

"""MONAI transforms for sparse labels."""
