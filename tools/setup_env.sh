#!/usr/bin/env bash
# Makes "python" one that can run this repository: see usage() below, or run with --help.
#
# It is meant to be sourced, since only then can it leave an environment active. Sourced, it runs
# itself as a program and activates the environment that the program names. So nothing that fails in
# here can close a terminal, and no function or option of it stays behind in the shell.

if [[ ${BASH_SOURCE[0]} != "$0" ]]; then
    # In a script that sources this file without arguments, "$@" is the script's own.
    if [[ $- == *i* ]]; then
        _setup_env_prefix=$(bash "${BASH_SOURCE[0]}" "$@") || return
    else
        _setup_env_prefix=$(bash "${BASH_SOURCE[0]}") || return
    fi
    if [[ -n $_setup_env_prefix ]]; then # empty after --help
        if [[ ${VIRTUAL_ENV:-} != "$_setup_env_prefix" && -r $_setup_env_prefix/bin/activate ]]; then
            # shellcheck disable=SC1091
            source "$_setup_env_prefix/bin/activate"
        fi
        # An environment may be active and still be behind another on PATH.
        if [[ $(command -v python) != "$_setup_env_prefix/bin/python" ]]; then
            export PATH="$_setup_env_prefix/bin:$PATH"
        fi
        hash -r
    fi
    unset _setup_env_prefix
    return 0
fi

set -euo pipefail

usage() {
    cat >&2 <<'EOF'
usage: source tools/setup_env.sh          install what is missing and activate the environment
       bash tools/setup_env.sh [options]  the same, but print the environment's folder instead

An active virtualenv or conda environment that has torch is used as it is: what is missing is added,
its torch is never changed. Otherwise, and always for SETUP_STACK=onedl, .venv in the repository is made, or used again.

  --extras NAMES  extras of the package to install as well: tests, docs, dev; several with commas
  --check         only say what is missing; the exit code is 1 if anything is
  -h, --help      this text

A script that sources this file cannot give options; the variables do the same:

  SETUP_EXTRAS    as --extras
  SETUP_VENV      where to make the environment (default: .venv in the repository)
  PYTHON          the Python to make it with, 3.10 to 3.12 (default: the first that runs of
                  python3.11, python3.12, python3.10, python3, python)
  SETUP_STACK     openmmlab (the default), or onedl for the maintained forks of mmengine, mmcv and mmdet
  TORCH_SPEC      what to give to pip if torch is missing (default: torch==2.13.0). For a build of
                  your choice, CPU or a certain CUDA: install torch into an environment of your own
                  and activate that, or set this and pip's own variables (PIP_INDEX_URL and so on).
  MAX_JOBS        parallel compilers for mmcv's ops (default: the number of cores)

The first run compiles mmcv's ops: about 9 minutes on 2 cores. Stopping it at any point is safe: the
next run continues with what is missing. Once all is there, a run takes about a second.
EOF
}

# ---- the stack: the one place that names its versions --------------------------------------------

TORCH_SPEC=${TORCH_SPEC:-torch==2.13.0}
NUMPY_SPEC="numpy>=1.26,<2.3"
OLD_NUMPY_SPEC="numpy>=1.26,<2"
case ${SETUP_STACK:=openmmlab} in
    openmmlab)
        MMENGINE_SPEC="mmengine==0.10.7"
        MMCV_SPEC="mmcv==2.1.0"
        MMDET_SPEC="mmdet==3.3.0"
        ;;
    onedl)
        MMENGINE_SPEC="onedl-mmengine==0.10.12"
        MMCV_SPEC="onedl-mmcv==2.3.6"
        MMDET_SPEC="onedl-mmdetection==3.5.1"
        ;;
    *)
        printf 'setup_env: SETUP_STACK=%s, allowed are openmmlab and onedl\n' "$SETUP_STACK" >&2
        exit 2
        ;;
esac
mmcv=${MMCV_SPEC%%==*}
# mmcv's build imports pkg_resources, which later setuptools no longer has.
BUILD_SPECS=("setuptools<81" wheel ninja psutil packaging)

# ---- small helpers -------------------------------------------------------------------------------

say() { printf 'setup_env: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# Announces a step that is needed. False if it must not be taken, with --check.
missing=0
step() {
    missing=1
    if [[ $check == 1 ]]; then
        say "missing: $*"
        return 1
    fi
    say "$*"
}

# Whether $1 is a Python that runs (a pyenv shim may not) and that the package supports.
python_fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

has() { "$1" -c "import importlib.metadata as m; m.version('$2')" 2>/dev/null; }

version_of() { "$python" -c "import importlib.metadata as m; print(m.version('$1'))"; }

pip_install() {
    # To stderr: stdout is for the environment's folder.
    "$python" -m pip install --quiet --disable-pip-version-check --no-input "$@" >&2
}

# Whether $1 can be used as it is: in our own environment the version that $2 pins, in the user's
# whatever provides the module, since a fork may.
provides() {
    if [[ $own == 1 ]]; then
        [[ $(version_of "${2%%==*}" 2>/dev/null) == "${2#*==}" ]]
    else
        "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"
    fi
}

ops_load() { "$python" -c "import torch, mmcv._ext" >>"$log" 2>&1; }

# ---- which environment ---------------------------------------------------------------------------

# Prints the folder of the environment to use: an active one with torch, or our own.
choose_environment() {
    local candidate
    if [[ $SETUP_STACK != openmmlab ]]; then # the active one most likely has the other packages
        printf '%s\n' "$own_prefix"
        return
    fi
    for candidate in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        [[ -n $candidate && -x $candidate/bin/python && $candidate != "$own_prefix" ]] || continue
        if ! has "$candidate/bin/python" torch; then
            say "the active environment $candidate has no torch, so $own_prefix is used instead"
        elif ! python_fits "$candidate/bin/python"; then
            say "the active environment $candidate is not Python 3.10 to 3.12, so $own_prefix is used"
        else
            printf '%s\n' "$candidate"
            return
        fi
    done
    printf '%s\n' "$own_prefix"
}

# Prints a Python to make an environment with.
find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        python_fits "$PYTHON" || die "PYTHON=$PYTHON does not run, or is not Python 3.10 to 3.12"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.10 python3 python; do
        if python_fits "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.10, 3.11 or 3.12 found; install one, or set PYTHON to its path"
}

# mmcv's ops need torch's headers, a C++ compiler and Python's headers. Said before any download.
require_compiler() {
    local compiler="${CXX:-c++}" # the one that torch's build calls
    command -v "${compiler%% *}" >/dev/null ||
        die "no C++ compiler ($compiler), and mmcv's ops have to be compiled; install one" \
            "(Debian, Ubuntu: apt-get install g++; conda: conda install cxx-compiler), or set CXX"
    "$1" -c '
import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists())' ||
        die "Python's headers (Python.h) are missing, and mmcv's ops have to be compiled; install" \
            "them (Debian, Ubuntu: apt-get install python3-dev)"
}

make_environment() {
    local base
    base=$(find_python)
    require_compiler "$base"
    # An interrupted run leaves a broken environment to be replaced; anything else is not ours.
    if [[ -e $prefix && ! -e $prefix/pyvenv.cfg && -n $(ls -A "$prefix") ]]; then
        die "$prefix exists and is not a virtual environment; set SETUP_VENV to another folder"
    fi
    # With --check there is nothing more to look at.
    step "environment in $prefix, with $("$base" --version)" || exit 1
    "$base" -m venv --clear "$prefix" >&2 ||
        die "$base cannot make environments (Debian, Ubuntu: apt-get install python3-venv)"
}

# ---- what goes into it ---------------------------------------------------------------------------

# torch before 2.3 is compiled for NumPy 1, but does not say so to pip.
torch_needs_old_numpy() {
    "$python" -c "
import importlib.metadata as m, sys
sys.exit(tuple(map(int, m.version('torch').split('.')[:2])) >= (2, 3))" 2>/dev/null
}

install_torch() {
    # shellcheck disable=SC2086  # TORCH_SPEC may hold options of pip as well
    has "$python" torch || ! step "$TORCH_SPEC" || pip_install $TORCH_SPEC
    if torch_needs_old_numpy; then
        NUMPY_SPEC=$OLD_NUMPY_SPEC
    fi
    has "$python" numpy || ! step "$NUMPY_SPEC" || pip_install "$NUMPY_SPEC"
    [[ $check == 0 ]] || return 0
    # From here on nothing may change the torch that is there: mmcv's ops are compiled for it.
    local constraints="$prefix/mmdet_droploss_constraints.txt"
    printf 'torch==%s\n' "$(version_of torch)" >"$constraints"
    if [[ $own == 1 || $NUMPY_SPEC == "$OLD_NUMPY_SPEC" ]]; then
        printf '%s\n' "$NUMPY_SPEC" >>"$constraints"
    fi
    export PIP_CONSTRAINT="$constraints"
}

# opencv-python wants the libraries of a screen, which servers and containers do not have.
mend_opencv() {
    [[ $check == 0 ]] || return 0
    local said version
    if said=$("$python" -c "import cv2" 2>&1); then
        return 0
    fi
    if [[ $said =~ lib[A-Za-z0-9_+-]+\.so ]] && has "$python" opencv-python; then
        version=$(version_of opencv-python)
        say "opencv-python-headless==$version in place of opencv-python (${said##*$'\n'})"
        "$python" -m pip uninstall --quiet --yes opencv-python >&2
        pip_install --force-reinstall --no-deps "opencv-python-headless==$version"
    elif [[ $said == *"No module named 'cv2'"* ]]; then
        pip_install opencv-python-headless
    else
        printf '%s\n' "$said" >&2
        die "OpenCV does not import, see above"
    fi
}

# Says how far the compilation is, until it is killed.
show_progress() {
    local built
    # The last sleep outlives this function's end: it must not hold a pipe that someone reads.
    while sleep "${SETUP_PROGRESS_SECONDS:-15}" >/dev/null 2>&1; do
        built=$(grep -o '^ *\[[0-9]*/[0-9]*\]' "$log" | tail -n 1 | tr -d ' ') || built=
        say "  mmcv: ${built:-preparing}, $SECONDS s"
    done
}

build_mmcv() {
    local arguments=("$MMCV_SPEC") broken=0
    # One would be written over the other's files. The package's own check says what to do instead.
    local other=mmcv
    [[ $mmcv != mmcv ]] || other=onedl-mmcv
    if has "$python" "$other"; then
        say "$other is installed, but its compiled ops do not load:"
        PYTHONPATH="$root" "$python" -c "import mmdet_droploss" >&2 || true
        exit 1
    fi
    if has "$python" "$mmcv" || has "$python" mmcv-lite; then
        broken=1
    fi
    step "$MMCV_SPEC with its ops: compiling takes about 9 minutes on 2 cores, unless pip's cache" \
        "holds it" || return 0
    say "  log: $log"
    pip_install "${BUILD_SPECS[@]}"
    "$python" -m pip uninstall --quiet --yes mmcv-lite >>"$log" 2>&1
    while true; do
        # What is installed, or what pip's cache holds, may lack the ops or be for another torch.
        if [[ $broken == 1 ]]; then
            arguments=(--no-cache-dir --no-binary "$mmcv" --force-reinstall --no-deps "$MMCV_SPEC")
        fi
        SECONDS=0
        show_progress &
        # shellcheck disable=SC2064  # this process, not a later one
        trap "kill $! 2>/dev/null || true" EXIT
        # pip in the foreground, so that Ctrl-C reaches it.
        MMCV_WITH_OPS=1 MAX_JOBS="${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}" \
            "$python" -m pip install --verbose --disable-pip-version-check --no-input \
            --no-build-isolation "${arguments[@]}" >>"$log" 2>&1 || {
            tail -n 25 "$log" >&2
            die "mmcv could not be installed, see above and $log"
        }
        kill $! 2>/dev/null || true
        mend_opencv # mmcv may have brought it
        if ops_load; then
            return 0
        fi
        if [[ $broken == 1 ]]; then
            tail -n 3 "$log" >&2
            die "mmcv was built, but its ops do not load, see above and $log"
        fi
        say "pip's cache held an $mmcv without ops or for another torch; building it from source"
        broken=1
    done
}

install_package() {
    step "mmdet_droploss${extras:+[$extras]}, editable" || return 0
    "$python" -c "
import importlib.metadata as m, sys
m.version('wheel'), sys.exit(int(m.version('setuptools').split('.')[0]) < 64)" 2>/dev/null ||
        pip_install "${BUILD_SPECS[@]}"
    pip_install --no-build-isolation --editable "$root${extras:+[$extras]}"
}

install_all() {
    if [[ $own == 1 ]] && ! "$python" -m pip --version >/dev/null 2>&1; then
        make_environment
    fi
    python_fits "$python" ||
        die "$prefix is not Python 3.10 to 3.12; delete it, or set SETUP_VENV to another folder"
    log=/dev/null
    if [[ $check == 0 ]]; then
        log="$prefix/mmdet_droploss_setup.log"
        : >"$log"
    fi
    ops_load || require_compiler "$python"

    install_torch
    provides mmengine "$MMENGINE_SPEC" || ! step "$MMENGINE_SPEC" || pip_install "$MMENGINE_SPEC"
    mend_opencv
    ops_load || build_mmcv
    provides mmdet "$MMDET_SPEC" || ! step "$MMDET_SPEC" || pip_install "$MMDET_SPEC"
    install_package
    mend_opencv # again: the package's requirements may have brought it back
    if [[ $check == 0 ]]; then
        # Says in words what cannot work, for instance in an environment of the user's own.
        (cd / && "$python" -c "import mmdet_droploss" >&2) ||
            die "all is installed in $prefix, but it does not work, see above"
    fi
}

# ---- the stamp: what a complete environment was made from ----------------------------------------

# Cheap, nothing heavy is imported: it makes the difference between a second and a minute.
fingerprint() {
    "$python" - "$root" 2>/dev/null <<'EOF'
import hashlib, importlib.metadata, pathlib, sys

digest = hashlib.sha256()
for name in ("setup.cfg", "setup.py", "tools/setup_env.sh"):
    digest.update(pathlib.Path(sys.argv[1], name).read_bytes())
versions = [importlib.metadata.version(name) for name in ("torch", "mmdet_droploss")]
for name in ("mmcv", "onedl-mmcv"):
    try:
        versions.append(importlib.metadata.version(name))
        break
    except importlib.metadata.PackageNotFoundError:
        pass
else:
    sys.exit(1)
print(sys.version.split()[0], *versions, digest.hexdigest(), sys.argv[1])
EOF
}

# Whether the stamp is of this state, with all the extras that are wanted now.
is_complete() {
    local current recorded="" recorded_extras="" name
    current=$(fingerprint) || return 1
    [[ -r $stamp ]] || return 1
    {
        IFS= read -r recorded
        IFS= read -r recorded_extras
    } <"$stamp" || return 1
    [[ $recorded == "$current" ]] || return 1
    for name in ${extras//,/ }; do
        [[ ,$recorded_extras, == *",$name,"* ]] || return 1
    done
}

write_stamp() {
    {
        fingerprint
        printf '%s\n' "$extras"
    } >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# ---- the program ---------------------------------------------------------------------------------

check=0
extras=${SETUP_EXTRAS:-}
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --check) check=1 ;;
        --extras)
            [[ $# -ge 2 ]] || die "--extras needs names (see --help)"
            extras=$2
            shift
            ;;
        --extras=*) extras=${1#*=} ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
own_prefix=${SETUP_VENV:-$root/.venv}
[[ $own_prefix == /* ]] || own_prefix="$PWD/$own_prefix"
prefix=$(choose_environment)
own=0
[[ $prefix != "$own_prefix" ]] || own=1
python="$prefix/bin/python"
stamp="$prefix/mmdet_droploss_setup.stamp"

if ! is_complete; then
    if [[ -r $stamp ]]; then
        # What an earlier run was asked for stays wanted.
        for name in $(sed -n '2p' "$stamp" | tr ',' ' '); do
            [[ ,$extras, == *",$name,"* ]] || extras="${extras:+$extras,}$name"
        done
        # An interrupted run must not leave a stamp behind.
        [[ $check == 1 ]] || rm -f "$stamp"
    fi
    trap 'die "stopped; the next run continues here"' INT
    # Not in a condition: that would switch "set -e" off for everything in it.
    install_all
    [[ $check == 0 ]] || exit "$missing"
    write_stamp
fi
printf '%s\n' "$prefix"
