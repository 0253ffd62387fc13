"""`python -m datasets_manifest select ...`."""

from lipforge.datasets_manifest.cli import main

main()
