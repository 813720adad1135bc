#!/usr/bin/env bash
# model-signing (OpenSSF) lists what it needs, so installing it should be enough to import it. Version 1.1.1 imports
# OpenSSL (the package pyOpenSSL) when its signing module is imported, and does not ask for it: in an environment that
# has nothing else the import fails. Install pyopenssl beside it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet model-signing==1.1.1
"$folder/env/bin/python" - << 'PY'
import importlib.metadata, sys
asked = [item for item in importlib.metadata.requires("model-signing") if "openssl" in item.lower()]
print("model-signing", importlib.metadata.version("model-signing"), "asks for OpenSSL:", asked or "no")
try:
    import model_signing.signing
except ModuleNotFoundError as error:
    print("import model_signing.signing:", error)
    sys.exit(error.name != "OpenSSL" or bool(asked))
sys.exit("it is imported: the behaviour has changed")
PY
echo "unchanged: model-signing does not ask for pyOpenSSL, and needs it"
