#!/usr/bin/env bash
# The steps of `make test`: all of them run, each with a headline and its duration; any failure fails the whole.
# usage: tools/test.sh <bin folder of the environment>
set -uo pipefail
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
unset IN_TEST # set, it would make nbdev_export do nothing

summary=() failed=0 begin=$SECONDS

step() { # step <title> <command…>
  local title=$1 start=$SECONDS verdict=passed
  shift
  printf '\n=== %s\n' "$title"
  "$@" || { verdict="FAILED"; failed=$((failed + 1)); }
  summary+=("$(printf '%-7s %5d s  %s' "$verdict" $((SECONDS - start)) "$title")")
  printf -- '--- %s\n' "${summary[-1]}"
}

lint() {
  "$bin/ruff" check iqa_repro tests nbs tools && "$bin/ruff" format --check nbs tests tools && "$bin/mypy"
}

library_notebooks() { # two at a time, one thread each; nbdev_test itself knows no time limit
  OMP_NUM_THREADS=1 timeout "${NBDEV_TEST_LIMIT:-900}" "$bin/nbdev_test" --n_workers 2 --do_print --timing
}

tests() { # two files at a time, one thread each
  OMP_NUM_THREADS=1 "$bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12
}

step "1/6 the package is what the notebooks export" "$bin/python" tools/notebooks.py check-export
step "2/6 the notebooks are clean" "$bin/python" tools/notebooks.py check-clean
step "3/6 ruff and mypy" lint
step "4/6 every library notebook runs (nbdev_test)" library_notebooks
step "5/6 pytest" tests
step "6/6 every experiment notebook runs with smoke=True" "$bin/iqa-repro" reproduce --smoke --force --overwrite

printf '\n=== summary\n'
printf '%s\n' "${summary[@]}"
if ((failed)); then
  echo "make test: $failed of ${#summary[@]} steps FAILED after $((SECONDS - begin)) s"
  exit 1
fi
echo "make test: all ${#summary[@]} steps passed in $((SECONDS - begin)) s"
