"""`python -m datasets_manifest select ...`."""

from datasets_manifest.cli import main

main()
