#!/usr/bin/env bash
# What the tests of the examples use beyond Python: Node packages, ONNX Runtime's headers and, as root on Debian,
# chromium, nginx, cmake and a compiler. What cannot be had is named here, and its tests are skipped with the reason.
set -uo pipefail
cd "$(dirname "$0")/../.."

missing() { echo "examples: $1; their tests will be skipped" >&2; }
wanted=()
command -v chromium > /dev/null || wanted+=(chromium)
command -v cmake > /dev/null || wanted+=(cmake)
command -v c++ > /dev/null || wanted+=(g++)
[ -e /usr/include/jpeglib.h ] || wanted+=(libjpeg-dev)
command -v nginx > /dev/null || [ -x /usr/sbin/nginx ] || wanted+=(nginx-light)
if [ ${#wanted[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "${wanted[@]}"; } \
      > /dev/null || missing "apt-get cannot install ${wanted[*]}"
  else
    missing "${wanted[*]} not installed"
  fi
fi
examples/cpp/headers.sh || missing "no headers of ONNX Runtime"
if command -v npm > /dev/null; then
  make --no-print-directory examples/node_modules/.stamp || missing "npm ci failed"
else
  missing "npm not installed"
fi
exit 0
