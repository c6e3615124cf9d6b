#!/usr/bin/env bash
# Compiles mmcv's own operators for the torch that is installed: see usage() below.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: bash tools/misc/build_mmcv.sh

Replaces mmcv-lite, or an mmcv without its compiled operators or with those of another torch, in the
environment of "python" (or of $PYTHON), by mmcv 2.1.0 compiled for the torch there; onedl-mmcv, if
that is installed, by itself, compiled. It takes a C++ compiler, Python's headers and about 9 minutes
on 2 cores. What is installed is replaced last, so it can be stopped at any time.

  MAX_JOBS   parallel compilers (default: the number of cores)
  CXX        the compiler (default: c++)

Nothing in this repository needs it: torchvision's operators do the same.
EOF
}

say() { printf 'build_mmcv: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

case ${1:-} in
    "") ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown option $1 (see --help)" ;;
esac

python=${PYTHON:-python}
version_of() { "$python" -c "import importlib.metadata as m; print(m.version('$1'))" 2>/dev/null; }
pip() { "$python" -m pip "$1" --disable-pip-version-check --no-input "${@:2}"; }
ops_load() { (cd / && "$python" -c "import torch, mmcv._ext"); }

version_of torch >/dev/null || die "$python has no torch, for which mmcv is compiled: source tools/setup_env.sh"
compiler=${CXX:-c++}
command -v "${compiler%% *}" >/dev/null || die "no C++ compiler ($compiler): install one" \
    "(Debian, Ubuntu: apt-get install g++; conda: conda install cxx-compiler), or set CXX"
"$python" -c '
import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists())' ||
    die "Python's headers (Python.h) are missing: install them (Debian, Ubuntu: apt-get install python3-dev)"

if version=$(version_of onedl-mmcv); then
    spec=onedl-mmcv==$version
else
    spec=mmcv==2.1.0
fi
folder=$(mktemp -d)
log=$folder/log
progress=
finish() {
    [[ -z $progress ]] || kill "$progress" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'die "stopped; what was installed is unchanged"' INT TERM

# mmcv's build imports pkg_resources, which later setuptools no longer has.
pip install --quiet "setuptools<81" wheel ninja psutil packaging >&2 ||
    die "pip could not install what the build needs, see above"
say "$spec: fetching the source"
pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest "$folder" "$spec" >&2 ||
    die "pip could not fetch $spec, see above"
tar -xzf "$folder"/*.tar.gz -C "$folder"
source=$(echo "$folder"/*mmcv-*/)
# It asks for C++17, and torch from 2.14 on cannot be compiled with that. Without a standard torch's
# own build tools ask for the one that its headers need.
sed "s/'-std=c++1[47]'//g" "$source/setup.py" >"$source/setup.py.new"
mv "$source/setup.py.new" "$source/setup.py"

say "$spec: compiling for torch $(version_of torch), about 9 minutes on 2 cores"
show_progress() {
    local built
    # The last sleep outlives this function's end: it must not hold a pipe that someone reads.
    while sleep "${BUILD_PROGRESS_SECONDS:-15}" >/dev/null 2>&1; do
        built=$(grep -o '^ *\[[0-9]*/[0-9]*\]' "$log" | tail -n 1 | tr -d ' ') || built=
        say "  ${built:-preparing}, $SECONDS s"
    done
}
SECONDS=0
show_progress &
progress=$!
MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)} pip wheel --verbose --no-deps \
    --no-build-isolation --wheel-dir "$folder/wheels" "$source" >"$log" 2>&1 || {
    tail -n 25 "$log" >&2
    die "mmcv could not be compiled, see above"
}

for name in mmcv-lite mmcv onedl-mmcv; do
    ! version_of "$name" >/dev/null || pip uninstall --quiet --yes "$name" >&2
done
pip install --quiet --no-deps --no-index "$folder"/wheels/*.whl >&2
ops_load >&2 || die "mmcv was compiled, but its operators do not load, see above"
say "done, in $SECONDS s"
