# SPDX-License-Identifier: Apache-2.0
# Sourced by demo.sh and test.sh: makes .venv where there is none, installs the project, activates it.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}

if [ ! -x .venv/bin/python ]; then
    "$PYTHON" -m venv .venv
fi
. .venv/bin/activate

# Installed once for each state of setup.cfg; torch and torchvision in one command, so that they match.
stamp=.venv/.installed-$(cksum < setup.cfg | cut -d' ' -f1)
if [ ! -f "$stamp" ]; then
    echo "Installing into .venv (PyTorch is several GB the first time) ..."
    PYTHONWARNINGS=ignore python -m pip install --quiet --disable-pip-version-check torch torchvision
    PYTHONWARNINGS=ignore python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
    rm -f .venv/.installed-*
    touch "$stamp"
fi
