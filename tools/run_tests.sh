#!/usr/bin/env bash
# Lints and tests, in an environment that tools/setup_env.sh makes if there is none.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: bash tools/run_tests.sh [--stack compiled | --stack onedl] [pytest arguments]
       bash tools/run_tests.sh --lint

Lints (ruff, mypy, codespell, shellcheck, the workflows' schema), then runs "pytest tests" with 2
processes. --lint does only the first. Arguments go to pytest:

  bash tools/run_tests.sh -k losses         tests with a name that matches
  bash tools/run_tests.sh -n 0 -x           one process, stop at the first failure

Another environment (SETUP_VENV):

  bash tools/run_tests.sh --stack compiled  mmcv's own operators, in .venv-compiled; takes a compiler
  bash tools/run_tests.sh --stack onedl     the maintained forks of mmengine, mmcv and mmdet, in .venv-onedl

The first run sets the environment up, see "bash tools/setup_env.sh --help".
EOF
}

for argument in "$@"; do
    case $argument in
        -h | --help)
            usage
            exit 0
            ;;
    esac
done

# Every check runs, whatever the others find, so that one run says everything.
lint() {
    local found=0
    check() {
        echo "run_tests: $*"
        "$@" || found=1
    }
    check ruff check .
    check ruff format --check .
    check mypy mmdet_droploss
    check codespell
    check shellcheck -x tools/*.sh tools/*/*.sh .ci/run
    check check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
    return "$found"
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=tests,docs # the tests build the documentation, too
if [[ ${1:-} == --lint ]]; then
    [[ $# == 1 ]] || {
        echo "run_tests: --lint takes no other arguments" >&2
        exit 2
    }
    extras=lint
elif [[ ${1:-} == --stack ]]; then
    case ${2:-} in
        compiled) export SETUP_OPS=compiled ;;
        onedl) export SETUP_STACK=onedl ;;
        *)
            echo "run_tests: --stack '${2:-}', allowed are compiled and onedl" >&2
            exit 2
            ;;
    esac
    export SETUP_VENV="${SETUP_VENV:-$PWD/.venv-$2}"
    shift 2
fi
export SETUP_EXTRAS="$extras${SETUP_EXTRAS:+,$SETUP_EXTRAS}"
# shellcheck source=tools/setup_env.sh
source tools/setup_env.sh

# One thread for each process: two processes with a pool each would only fight over the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MPLBACKEND=Agg

linted=0
lint || linted=1
[[ $extras != lint ]] || exit "$linted"
[[ $linted == 0 ]] || echo "run_tests: the lint found something, so this run fails whatever the tests say"

# tests/conftest.py orders the files, the long ones first; xdist's own order, by the number of tests,
# would have them last. At the end, so that pytest's closing line is the last of the output.
tests=0
python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder --durations 15 "$@" || tests=$?
[[ $tests == 0 ]] || exit "$tests"
exit "$linted"
