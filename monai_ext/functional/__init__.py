# SPDX-License-Identifier: Apache-2.0

"""Pure functions on arrays and tensors, one paper idea a file."""
