"""`python -m pipeline prepare ...`: what `ray job submit` runs."""

from pipeline.cli import main

main()
