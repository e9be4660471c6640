#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains, evaluates and applies a bundle on phantom data: minutes on two CPU cores.
#   bash scripts/demo.sh [bundle]        default: pa_seg_3d
set -euo pipefail
bundle=${1:-pa_seg_3d}
. "$(dirname "$0")/_environment.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PYTHONWARNINGS=ignore

# step TITLE RUN_ID CONFIG... : one bundle run on the demo's overlay
step() {
    local title=$1 run_id=$2 files
    shift 2
    files=$(printf "'configs/%s.json'," "$@")
    echo "== $title"
    python -m monai.bundle run "$run_id" --config_file "[${files%,}]" 2>demo.log ||
        { tail -n 30 demo.log >&2; exit 1; }
}

case $bundle in
pa_seg_3d)
    cd bundles/pa_seg_3d
    step "Stage 1: primary network, seven points an object" training train small demo
    step "Stage 1: auxiliary network" training train small demo auxiliary_small
    step "Stage 2: self and cross monitoring" training train small demo train_scm train_scm_small
    step "Evaluation on the test phantoms" evaluating train small demo evaluate evaluate_scm
    step "Inference" inference inference small demo inference_scm
    ;;
*)
    echo "There is no bundle '$bundle'; there is: pa_seg_3d" >&2
    exit 1
    ;;
esac
rm -f demo.log
python -m monai_ext.handlers.report --summary output/evaluation
