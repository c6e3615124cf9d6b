#!/usr/bin/env bash
# Makes "python" one that can run this repository: see usage() below, or run with --help.
#
# Sourced, it runs itself as a program and activates the environment that the program names. So
# nothing that fails in here can close a terminal, and nothing of it stays behind in the shell.
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
: "${SETUP_EXTRAS:=}" "${SETUP_OPS:=torchvision}" "${SETUP_STACK:=openmmlab}" "${TORCH_SPEC:=torch==2.14.1}"

usage() {
    cat >&2 <<'EOF'
usage: source tools/setup_env.sh          install what is missing and activate the environment
       bash tools/setup_env.sh [options]  the same, but print the environment's folder instead

An active virtualenv or conda environment with torch gets what it lacks; its torch is never changed.
Without one, .venv in the repository is made, or used again. No compiler is needed. It can be stopped
at any time, and the next run goes on; once all is there, it takes a second.

  --extras NAMES  extras of the package to install as well: tests, lint, docs, dev; several with commas
  --check         install nothing; the exit code is 1 if anything is missing
  -h, --help      this text

A script that sources this file cannot give options. These variables, and SETUP_EXTRAS, do the same:

  SETUP_VENV      the environment to make or use, whatever is active
  PYTHON          the Python to make it with, 3.10 to 3.13 (default: the first that runs of
                  python3.11, python3.12, python3.13, python3.10, python3, python)
  TORCH_SPEC      what to give to pip if torch is missing (default: torch==2.14.1)
  SETUP_OPS       torchvision (the default) for its operators, or compiled for mmcv's own
  SETUP_STACK     openmmlab (the default), or onedl for the maintained forks of mmengine, mmcv and mmdet
EOF
}

say() { printf 'setup_env: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# Whether $1 is a Python that runs (a pyenv shim may not) and that the package supports.
python_fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

choose_environment() { # prints the folder of an active one with torch, or of our own
    local python
    for python in "${VIRTUAL_ENV:-}/bin/python" "${CONDA_PREFIX:-}/bin/python"; do
        [[ -z ${SETUP_VENV:-} && $SETUP_STACK == openmmlab ]] || break
        [[ $python != /bin/python && $python != "$own/bin/python" && -x $python ]] || continue
        if ! "$python" -c "import importlib.metadata as m; m.version('torch')" 2>/dev/null; then
            say "the active environment ${python%/bin/python} has no torch, so $own is used instead"
        elif ! python_fits "$python"; then
            say "the active environment ${python%/bin/python} is not Python 3.10 to 3.13, so $own is used"
        else
            printf '%s\n' "${python%/bin/python}"
            return
        fi
    done
    printf '%s\n' "$own"
}

make_environment() {
    local base=none candidate candidates=(python3.11 python3.12 python3.13 python3.10 python3 python)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if python_fits "$candidate"; then
            base=$candidate
            break
        fi
    done
    [[ $base != none ]] || die "no Python 3.10 to 3.13 found (${PYTHON:+PYTHON=$PYTHON does not run, or is another; }" \
        "Debian, Ubuntu: apt-get install python3-venv; conda: conda create -n droploss python=3.11)"
    # An interrupted run leaves a broken environment to be replaced; anything else is not ours.
    [[ ! -e $prefix || -e $prefix/pyvenv.cfg || -z $(ls -A "$prefix") ]] ||
        die "$prefix exists and is not a virtual environment; set SETUP_VENV to another folder"
    ! compgen -G "$prefix/lib/python3*/site-packages/torch" >/dev/null ||
        die "$prefix has torch, but neither pip nor ensurepip to get it; install pip there"
    say "environment in $prefix, with $("$base" --version)"
    "$base" -m venv --clear "$prefix" >&2 ||
        die "$base cannot make environments (Debian, Ubuntu: apt-get install python3-venv)"
}

options=()
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --check) options+=(--check) ;;
        --extras)
            [[ $# -ge 2 ]] || die "--extras needs names (see --help)"
            SETUP_EXTRAS=$2
            shift
            ;;
        --extras=*) SETUP_EXTRAS=${1#*=} ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
own=${SETUP_VENV:-$root/.venv}
[[ $own == /* ]] || own=$PWD/$own
prefix=$(choose_environment)
if ! "$prefix/bin/python" -m pip --version >/dev/null 2>&1; then
    [[ ${options[*]-} != *--check* ]] || die "missing: environment in $prefix"
    # Some tools make environments without pip.
    "$prefix/bin/python" -m ensurepip >/dev/null 2>&1 || make_environment
fi
python_fits "$prefix/bin/python" ||
    die "$prefix is not Python 3.10 to 3.13; delete it, or set SETUP_VENV to another folder"
export SETUP_EXTRAS SETUP_OPS SETUP_STACK TORCH_SPEC
"$prefix/bin/python" "$root/tools/misc/install_packages.py" ${options[@]+"${options[@]}"} >&2
printf '%s\n' "$prefix"
