#!/usr/bin/env bash
# headers.sh: ONNX Runtime's C and C++ headers into the folder onnxruntime/ beside this file, on any Debian release.
#
# They are those of Debian 13's libonnxruntime-dev (MIT), 85 kB. Only that file is fetched, with its signed package list,
# and unpacked here: no root, no new source for apt. A library newer than the headers, such as the Python wheel's, serves
# them all the same, since ONNX Runtime adds to its C API at the end only.
set -euo pipefail
out=$(dirname "$0")/onnxruntime
[ ! -d "$out" ] || exit 0
if ! command -v apt-get > /dev/null; then
  echo "headers.sh: no apt-get here; give cmake the include folder of an ONNX Runtime release: -DONNXRUNTIME_INCLUDE=..." >&2
  exit 1
fi
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | sort -u | head -n 1)
if [ -z "$mirror" ]; then
  echo "headers.sh: no Debian mirror among apt's sources (apt-get update may not have run yet)" >&2
  exit 1
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{lists,cache/archives}/partial "$scratch/unpacked"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$scratch/trixie.list"
fetch=(apt-get -qq -o Dir::Etc::SourceList="$scratch/trixie.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache" -o APT::Sandbox::User="$(id -un)")
"${fetch[@]}" update
(cd "$scratch" && "${fetch[@]}" download libonnxruntime-dev)
dpkg-deb -x "$scratch"/libonnxruntime-dev_*.deb "$scratch/unpacked"
cp "$scratch/unpacked/usr/share/doc/libonnxruntime-dev/copyright" "$scratch/unpacked/usr/include/onnxruntime/"
mv "$scratch/unpacked/usr/include/onnxruntime" "$out"
