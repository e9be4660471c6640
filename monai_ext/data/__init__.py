# SPDX-License-Identifier: Apache-2.0

"""Datalists, points, phantoms: what is read before training starts."""
