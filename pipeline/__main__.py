"""`python -m pipeline prepare ...`: what `ray job submit` runs."""

from lipforge.pipeline.cli import main

main()
