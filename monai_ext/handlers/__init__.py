# SPDX-License-Identifier: Apache-2.0

"""Behaviour attached to MONAI's trainers and evaluators."""
