#!/usr/bin/env bash
# Runs `.ci/run tests` (build, every Rust and Python test, notebooks) for each torch version, and writes the results
# to the table of docs/install.md. This takes hours on two cores.
#
#   release/matrix.sh [TORCH ...]       by default all supported versions; for instance: release/matrix.sh 2.13.0
#
# Writes a log for each version to target/release-logs/, and continues after a version that fails. The table
# keeps the rows of versions that are not in this run.
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
