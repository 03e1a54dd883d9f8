#!/usr/bin/env bash
# Builds a release into dist/: koopflow's wheel for each torch version, audited, and its source distribution.
# Each is built, checked for size, and tried in a clean environment.
#
#   release/build.sh                    everything
#   release/build.sh 2.13.0 sdist       the wheel for this torch, and the source distribution
#
# Needs Python 3.10 or newer (PYTHON, default python3), Rust, and a compiler for C++20. Writes a log for each
# part to target/release-logs/, and continues after a part that fails. pip's downloads are kept in
# target/release-downloads/ for the next run.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
version=$(sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
[ $# -gt 0 ] || set -- $("$python" build_backend/torch_versions.py) sdist
downloads=$root/target/release-downloads
mkdir -p dist "$downloads" target/release-logs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet abi3audit build || exit 1

# Each part runs in a subshell that any failure ends.
wheel() (
    set -e
    download "torch==$1"
    KOOPFLOW_TORCH=$1 from_downloads "$python" -m pip wheel --no-deps --wheel-dir "$work/new" .
    local file=$(ls "$work"/new/koopflow-*.whl)
    smaller_than 5000000 "$file"
    "$work/tools/bin/abi3audit" --strict "$file"
    download "$file"
    mv "$file" dist/
    # Installed by name, since pip must find the wheel that matches the requested torch.
    try "$1" koopflow "torch==$1"
)

sdist() (
    set -e
    local torch=$("$python" build_backend/torch_versions.py | tail -n 1)
    "$work/tools/bin/python" -m build --sdist --outdir "$work/new" .
    local file="$work/new/koopflow-$version.tar.gz"
    smaller_than 5000000 "$file"
    download "torch==$torch"
    # Dependencies compiled for the wheels are used again; only koopflow's own code is compiled.
    export CARGO_TARGET_DIR=$root/target
    KOOPFLOW_TORCH=$torch from_downloads "$python" -m pip wheel --no-deps --wheel-dir "$work/built" "$file"
    download "$work"/built/koopflow-*.whl
    mv "$file" dist/
    try "$torch" "$work"/built/koopflow-*.whl
)

# Downloads what pip needs to build koopflow and to install the given requirements.
download() {
    "$python" -m pip download --dest "$downloads" "$@" "maturin>=1.9.4,<2" "setuptools<82"
    # The package that is tried must be the one just built, not a koopflow of an earlier run.
    rm -f "$downloads"/koopflow-*
}

# Runs a command whose pip uses only the downloads.
from_downloads() {
    PIP_NO_INDEX=1 PIP_FIND_LINKS=$downloads "$@"
}

smaller_than() {
    local bytes=$(stat --format=%s "$2")
    [ "$bytes" -lt "$1" ] || { echo "$2 has $bytes bytes, and $1 are the limit"; exit 1; }
}

# try TORCH REQUIREMENT...: installs it as a user would, in an empty environment, and runs the smoke test.
try() {
    local torch=$1
    shift
    "$python" -m venv "$work/clean"
    from_downloads "$work/clean/bin/python" -m pip install "$@" --find-links "$root/dist"
    cd "$work"
    clean/bin/python -m pip check
    clean/bin/python "$root/release/smoke.py" "$version" "$torch"
    clean/bin/koopflow versions
}

failed=0
for part; do
    rm -rf "$work/new" "$work/built" "$work/clean"
    begin=$SECONDS log=target/release-logs/build-$part.log
    # Not as the condition of an if, since bash ignores set -e there.
    if [ "$part" = sdist ]; then sdist; else wheel "$part"; fi >"$log" 2>&1
    if [ $? -eq 0 ]; then said="in dist/"; else said="FAILED, see $log" failed=1; fi
    [ "$part" = sdist ] && name="source distribution" || name="wheel for torch $part"
    printf '%-22s %s (%d s)\n' "$name" "$said" $((SECONDS - begin))
done
ls -l dist
exit $failed
