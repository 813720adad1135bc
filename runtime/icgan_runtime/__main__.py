"""python -m icgan_runtime: the command `icgan`."""

from icgan_runtime.cli import main

raise SystemExit(main())
