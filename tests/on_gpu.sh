#!/bin/sh
# What waits for a GPU, in one go: CIFAR-10 at full size, the benchmarks, the k-NN tests.
#
#   tests/on_gpu.sh DATA OUT [arguments of the study, such as --workers 4]
#
# DATA is a folder of images in OpenOOD's layout; tables, records and logs go to OUT, where a second
# call goes on. PYTHON names another interpreter than python3. Estimated: 12 minutes of one H100.
set -u
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$2"
data=$(cd "$1" && pwd) && out=$(cd "$2" && pwd) || exit 2
shift 2
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2 TQDM_DISABLE=1
failed=0

step() { # name, command: its output goes to OUT/name.log
    name=$1
    shift
    echo "$(date +%T) $name"
    "$@" >"$out/$name.log" 2>&1 || { failed=1; echo "  failed: see $out/$name.log"; }
}

study() { # how many seeds, further arguments
    step "study-$1" "${PYTHON:-python3}" -m oal_lite.study --preset cifar10-scratch \
        --data-root "$data" --seeds "$@" --runs "$out/runs" --out "$out" --arms \
        ce,kd,kd-distance-twice,oal,oal+distance=knn,oal-paper,oal-as-released,oe-pixels,oe-pixels-matched
}

# Several processes keep one GPU busy only where NVIDIA's MPS lets them share it.
if command -v nvidia-cuda-mps-control >/dev/null; then
    export CUDA_MPS_PIPE_DIRECTORY="$out/mps" CUDA_MPS_LOG_DIRECTORY="$out/mps"
    mkdir -p "$out/mps"
    nvidia-cuda-mps-control -d
fi
# One seed first: should the time run out, there is a whole table of it.
study 1 --pretrain --device cuda --workers 8 "$@"
study 3 --pretrain --device cuda --workers 8 "$@"
if command -v nvidia-cuda-mps-control >/dev/null; then
    echo quit | nvidia-cuda-mps-control
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
fi
# Alone on the GPU: these are timed.
export OAL_LITE_BENCH_OUT="$out"
step benchmarks "${PYTHON:-python3}" -m pytest -q -p no:cacheprovider tests/benchmarks --device cuda
step knn-tests "${PYTHON:-python3}" -m pytest --noconftest -W default -q -p no:cacheprovider \
    tests/test_knn_gpu.py
echo "$(date +%T) done"
exit $failed
