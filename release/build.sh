#!/usr/bin/env bash
# koopflow's wheel for each torch, into dist/: built, measured, audited, and tried in a clean environment.
#
#   release/build.sh [TORCH ...]        all that koopflow supports, or for instance: release/build.sh 2.13.0
#
# Needs Python 3.10 or newer (PYTHON, default python3), Rust, and a compiler for C++20. Leaves a log for each
# version in target/release-logs/, and goes on after a version that fails.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ $# -gt 0 ] || set -- $("$python" build_backend/torch_versions.py)
mkdir -p dist target/release-logs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/audit"
"$work/audit/bin/python" -m pip install --quiet abi3audit || exit 1

# One wheel. Runs in a subshell in which any failure ends it.
wheel() (
    set -e
    local torch=$1
    KOOPFLOW_TORCH=$torch "$python" -m pip wheel --no-deps --wheel-dir "$work/new" .
    local file=$(ls "$work"/new/koopflow-*.whl)
    local bytes=$(stat --format=%s "$file")
    [ "$bytes" -lt 5000000 ] || { echo "$file has $bytes bytes, and 5 MB are the limit"; exit 1; }
    "$work/audit/bin/abi3audit" --strict "$file"
    mv "$file" dist/

    # As a person installs it: pip has to find the wheel that fits the torch that they want.
    "$python" -m venv "$work/clean"
    cd "$work"
    clean/bin/python -m pip install koopflow "torch==$torch" --find-links "$OLDPWD/dist"
    clean/bin/python -m pip check
    clean/bin/python "$OLDPWD/release/smoke.py" "$torch"
)

failed=0
for torch; do
    rm -rf "$work/new" "$work/clean"
    begin=$SECONDS log=target/release-logs/build-$torch.log
    # Not as the condition of an if, in which bash would overlook failures.
    wheel "$torch" >"$log" 2>&1
    if [ $? -eq 0 ]; then said="a wheel in dist/"; else said="FAILED, see $log" failed=1; fi
    printf 'torch %-8s %s (%d s)\n' "$torch" "$said" $((SECONDS - begin))
done
ls -l dist
exit $failed
