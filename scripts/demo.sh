#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains, evaluates and applies a bundle on phantom data: minutes on two CPU cores.
#   bash scripts/demo.sh [bundle]        default: pa_seg_3d
set -euo pipefail
bundle=${1:-pa_seg_3d}
. "$(dirname "$0")/_environment.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PYTHONWARNINGS=ignore

# step TITLE RUN_ID "CONFIG ..." [--key value ...]: one bundle run
step() {
    local title=$1 run_id=$2 files
    files=$(printf "'configs/%s.json'," $3)
    shift 3
    echo "== $title"
    python -m monai.bundle run "$run_id" --config_file "[${files%,}]" "$@" >demo.log 2>&1 ||
        { tail -n 30 demo.log >&2; exit 1; }
}

case $bundle in
pa_seg_3d)
    cd bundles/pa_seg_3d
    step "stage 1, primary network: seven points an object" training "train small demo"
    step "stage 1, auxiliary network" training "train small demo auxiliary"
    step "stage 2, self and cross monitoring" training "train small demo train_scm" --max_epochs 8 --refresh_epochs 4 --val_interval 4
    step "evaluation on the test phantoms" evaluating "train small demo train_scm evaluate"
    step "inference" inference "inference small" --ckpt_dir models/scm
    ;;
eugmt)
    cd bundles/eugmt
    step "two labelled tiles and 38 without masks: two students and their teacher" training "train small datasets/phantom_membrane demo"
    step "evaluation on the test phantoms" evaluating "train small datasets/phantom_membrane demo evaluate"
    step "inference" inference "inference small"
    ;;
cks)
    cd bundles/cks
    step "points in eight pictures: two unlike networks teach each other" training "train small demo"
    step "evaluation on the test phantoms" evaluating "train small demo evaluate"
    step "inference" inference "inference small"
    ;;
mmt_psm)
    cd bundles/mmt_psm
    step "four labelled smears and 36 without masks: a detector and its teacher" training "train small demo"
    step "evaluation on the test phantoms" evaluating "train small demo evaluate"
    step "inference" inference "inference small demo"
    ;;
cps_csingan)
    cd bundles/cps_csingan
    step "stage 1, four patches to annotate, and their annotation" selecting "select small demo"
    step "stage 2, a generator for each" training "train_gan small_gan demo"
    step "stage 3, pairs of image and mask" synthesizing "synthesize small_gan demo"
    step "stage 4, segmentation, and a round with its own labels" training "train small demo" --synthetic_dir output/synthesis
    step "evaluation on the test phantoms" evaluating "train small demo evaluate"
    step "inference" inference "inference small"
    ;;
*)
    echo "There is no bundle '$bundle'; there are: pa_seg_3d, eugmt, cks, mmt_psm, cps_csingan" >&2
    exit 1
    ;;
esac
rm demo.log
python - <<'END'
import csv, json, pathlib, statistics
folder = pathlib.Path("output/evaluation")
pooled = json.loads((folder / "report.json").read_text()).get("pooled", {})
names = {"aji": "AJI", "ap50": "AP50", "dice": "Dice", "foreground_dice": "Dice"}
found = [f"{name} {pooled[key]:.3f}" for key, name in names.items() if key in pooled]
if not found:
    with open(folder / "val_mean_dice_raw.csv") as file:
        found = [f"Dice {statistics.fmean(float(row['mean']) for row in csv.DictReader(file)):.3f}"]
print("On the test phantoms:", ", ".join(found))
print(f"Segmentations: {pathlib.Path('output/inference').resolve()}")
print(f"Report: {(folder / 'report.html').resolve()}")
END
