#!/usr/bin/env bash
# Compile the kernels with the address and undefined-behaviour sanitizers, beside the ordinary ones, and run the tests of
# the codecs on them. Usage: tools/sanitize.sh PYTHON [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."

python="$1"
shift
out="$PWD/build/sanitized"
kernels="mvc/codecs/kernels"
includes="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"

rm -rf "$out"
mkdir -p "$out"
cp -R mvc "$out/"
rm -f "$out/$kernels/"*.so
${CC:-gcc} -shared -fPIC -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Werror -DMVC_NO_CLONES \
  -fsanitize=address,undefined -fno-sanitize-recover=all \
  -I"$includes" -o "$out/$kernels/_native.abi3.so" "$kernels/_native.c"

export PYTHONPATH="$out"
export LD_PRELOAD="$(${CC:-gcc} -print-file-name=libasan.so)"
# Leaks: the interpreter keeps memory for itself until it ends. Reports go to files, for pytest keeps what a test prints.
export ASAN_OPTIONS="detect_leaks=0:log_path=$out/report"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$out/report"
export PYTHONMALLOC=malloc # so that every buffer has its own guarded block

checkout="$PWD"
cd "$out" # and not the checkout, whose kernels would be found first
"$python" -c "from mvc.codecs.kernels import _native; assert _native.__file__.startswith('$out'), _native.__file__"
if ! "$python" -m pytest -q -p no:cacheprovider -c "$checkout/pyproject.toml" --rootdir "$checkout" -m 'not slow' "$@" \
  "$checkout/tests/codecs"; then
  cat "$out"/report.* 2>/dev/null || true
  exit 1
fi
