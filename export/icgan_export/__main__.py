"""python -m icgan_export"""

import sys

from icgan_export.cli import main

sys.exit(main())
