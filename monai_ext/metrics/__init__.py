# SPDX-License-Identifier: Apache-2.0

"""Metrics beside MONAI's own."""
