# SPDX-License-Identifier: Apache-2.0
"""Speed and memory against a reference, as ratios in one run."""
