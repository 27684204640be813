#!/usr/bin/env bash
# Measures this machine for the `full` profile: eight minutes on a GPU, two on a CPU with a smaller load; needs nothing but the repository.
# usage: tools/rehearse.sh [--smoke]
set -euo pipefail
cd "$(dirname "$0")/.."
run=$(command -v iqa-repro || echo .venv/bin/iqa-repro)
[ -x "$run" ] || { echo "iqa-repro is neither on the PATH nor in .venv: run \`make setup\` first" >&2; exit 1; }
"$run" reproduce beyond/cost --force "$@"
echo "kept in ${IQA_REPRO_FIGURES:-paper_figures}/rehearsal/; \`iqa-repro doctor\` reads it from now on, unless the machine was busy"
