#!/usr/bin/env bash
# Lints and tests, in an environment that tools/setup_env.sh makes if there is none.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: bash tools/run_tests.sh [--stack onedl] [pytest arguments]

Runs "ruff check", "ruff format --check" and "pytest tests" with 2 processes. Arguments go to pytest:

  bash tools/run_tests.sh -k losses         tests with a name that matches
  bash tools/run_tests.sh -n 0 -x           one process, stop at the first failure

  bash tools/run_tests.sh --stack onedl     with the maintained forks, in .venv-onedl (SETUP_VENV)

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

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ${1:-} == --stack ]]; then
    [[ ${2:-} == onedl || ${2:-} == openmmlab ]] || {
        echo "run_tests: --stack '${2:-}', allowed are openmmlab and onedl" >&2
        exit 2
    }
    export SETUP_STACK="$2"
    [[ $2 == openmmlab ]] || export SETUP_VENV="${SETUP_VENV:-$PWD/.venv-onedl}"
    shift 2
fi
# The tests build the documentation, too.
export SETUP_EXTRAS="tests,docs${SETUP_EXTRAS:+,$SETUP_EXTRAS}"
# shellcheck source=tools/setup_env.sh
source tools/setup_env.sh

# One thread for each process: two processes with a pool each would only fight over the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MPLBACKEND=Agg

# The tests run even if the lint fails, so that one run says everything.
lint=0
python -m ruff check . || lint=1
python -m ruff format --check . || lint=1

[[ $lint == 0 ]] || echo "run_tests: ruff found something, so this run fails whatever the tests say"

# Last, so that pytest's closing line is the last of the output.
tests=0
python -m pytest tests -n 2 --dist loadfile --durations 15 "$@" || tests=$?
[[ $tests == 0 ]] || exit "$tests"
exit "$lint"
