#!/usr/bin/env bash
# The tests of the gate (.ci/run tests: build, every Rust and Python test, notebooks) for each torch, and a table
# of how they went in docs/install.md. Hours on two cores.
#
#   release/matrix.sh [TORCH ...]       all that koopflow supports, or for instance: release/matrix.sh 2.13.0
#
# Leaves a log for each version in target/release-logs/, and goes on after a version that fails. The table
# keeps the rows of versions that this run leaves out.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ $# -gt 0 ] || set -- $("$python" build_backend/torch_versions.py)
mkdir -p target/release-logs
failed=0
for torch; do
    log=target/release-logs/matrix-$torch.log
    printf 'torch %-8s ' "$torch"
    if KOOPFLOW_TORCH=$torch .ci/run tests >"$log" 2>&1; then echo passed; else echo "FAILED, see $log"; failed=1; fi
    "$python" release/table.py "$torch" "$log"
done
exit $failed
