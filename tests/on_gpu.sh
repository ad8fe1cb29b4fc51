#!/bin/sh
# What waits for a GPU: CIFAR-10 at full size, the benchmarks, the k-NN tests.
#
#   [STEPS="study benchmarks knn-tests"] [LIMIT=3600] tests/on_gpu.sh DATA OUT [arguments of the study]
#
# DATA is a folder of images in OpenOOD's layout; tables, records and logs go to OUT, where a second
# call goes on, and what is worth keeping is packed into OUT/kept.tar.gz after every step. STEPS
# leaves some out. After LIMIT seconds the study stops and shows the seeds it has finished. PYTHON
# names another interpreter than python3. Estimated for one H100: the study 13 minutes, the rest 4.
set -u
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$2"
data=$(cd "$1" && pwd) && out=$(cd "$2" && pwd) || exit 2
shift 2
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2 TQDM_DISABLE=1
export OAL_LITE_BENCH_OUT="$out"
python=${PYTHON:-python3}
arms=ce,kd,kd-distance-twice,oal,oal-paper,oal-as-released,oe-pixels,oe-pixels-matched
failed=0

step() { # name, command: its output goes to OUT/name.log
    name=$1
    shift
    echo "$(date +%T) $name"
    "$@" >"$out/$name.log" 2>&1 || { failed=1; echo "  failed: see $out/$name.log"; false; }
    status=$?
    (cd "$out" && find . \( -name '*.json' -o -name '*.log' \) ! -path './mps/*' |
        tar -czf .kept -T - && mv .kept kept.tar.gz)
    return $status
}

study() { # seconds, how many seeds, further arguments
    limit=$1 seeds=$2
    shift 2
    step "study-$seeds" timeout -s INT "$limit" "$python" -m oal_lite.study \
        --preset cifar10-scratch --data-root "$data" --device cuda --pretrain --workers 8 \
        --seeds "$seeds" --arms "$arms" --runs "$out/runs" --out "$out" "$@"
}

finished() { # how many seeds: are all arms of each of them trained?
    wanted_records=$(echo "$arms" | tr , '\n' | wc -l)
    for seed in $(seq 0 $(($1 - 1))); do
        found=$(find "$out/runs" -name "*-seed$seed-*.json" 2>/dev/null | wc -l)
        [ "$found" -ge "$wanted_records" ] || return 1
    done
}

run_study() {
    # Several processes keep one GPU busy only where NVIDIA's MPS lets them share it.
    if command -v nvidia-cuda-mps-control >/dev/null; then
        export CUDA_MPS_PIPE_DIRECTORY="$out/mps" CUDA_MPS_LOG_DIRECTORY="$out/mps"
        mkdir -p "$out/mps"
        nvidia-cuda-mps-control -d
    fi
    # All seeds at once fill the GPU; arms begin seed by seed, so what a stop leaves are whole seeds.
    if ! study "${LIMIT:-3600}" 3 "$@"; then
        for seeds in 3 2 1; do
            finished $seeds && study 120 "$seeds" "$@" --workers 1 && break
        done
    fi
    if command -v nvidia-cuda-mps-control >/dev/null; then
        echo quit | nvidia-cuda-mps-control
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    fi
}

# The benchmarks are timed, and so alone on the GPU.
for wanted in ${STEPS:-study benchmarks knn-tests}; do
    case $wanted in
        study) run_study "$@" ;;
        benchmarks) step benchmarks "$python" -m pytest -q -p no:cacheprovider tests/benchmarks --device cuda ;;
        knn-tests) step knn-tests "$python" -m pytest --noconftest -W default -q -p no:cacheprovider tests/test_knn_gpu.py ;;
        *) echo "STEPS names '$wanted'; expected some of study, benchmarks, knn-tests"; exit 2 ;;
    esac
done
echo "$(date +%T) done"
exit $failed
