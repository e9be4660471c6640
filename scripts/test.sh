#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the project if need be, then checks lint, format and types and runs the tests.
#   bash scripts/test.sh [pytest arguments]
set -euo pipefail
. "$(dirname "$0")/_environment.sh"

ruff check .
ruff format --check .
mypy
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec python -m pytest --numprocesses "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@"
