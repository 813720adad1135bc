#!/usr/bin/env bash
# What the tests of the examples use beyond Python: Node packages, ONNX Runtime's headers and, as root on Debian,
# chromium, nginx, cmake and a compiler; Kotlin's compiler where Java is. What cannot be had is named here, and its tests are skipped with the reason.
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
  if ! command -v java > /dev/null; then
    missing "no Java runtime for Kotlin"
  elif ! command -v kotlinc > /dev/null && [ ! -d examples/kotlin/compiler ]; then # 90 MB, JetBrains' own package
    npm install --silent --no-save --ignore-scripts --prefix examples/kotlin/compiler kotlin-compiler@2.4.20 > /dev/null \
      || { missing "npm cannot install kotlin-compiler"; rm -rf examples/kotlin/compiler; }
  fi
else
  missing "npm not installed"
fi
exit 0
