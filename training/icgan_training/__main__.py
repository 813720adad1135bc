"""`python -m icgan_training` is `icgan-train`."""

import sys

from icgan_training.cli import main

sys.exit(main())
