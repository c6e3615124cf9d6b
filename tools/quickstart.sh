#!/usr/bin/env bash
# The paper's comparison in small, on any machine: bash tools/quickstart.sh --help
#
# This sets up the environment; tools/quickstart.py does the rest.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
QUICKSTART_STARTED=$(date +%s)
export QUICKSTART_STARTED

# A mistake in the options is said before anything is installed, by whatever Python is there.
if python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    python3 "$root/tools/quickstart.py" --check-options "$@"
fi
for option in "$@"; do
    [[ $option != -h && $option != --help ]] || exit 0 # said already
done

printf '\n==== [1/7] environment (0:00 elapsed; %s; next: the data set) ====\n' \
    "1 to 3 min and the download of torch the first time, else seconds"
# shellcheck source=tools/setup_env.sh
source "$root/tools/setup_env.sh"
export MPLBACKEND=Agg
exec python "$root/tools/quickstart.py" "$@"
