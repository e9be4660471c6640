# SPDX-License-Identifier: Apache-2.0

"""Loss modules that a config constructs; all take logits first."""
