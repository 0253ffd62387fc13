"""`python -m train.features SELECTION ...`."""

from lipforge.train.features.command import app

app(prog_name="python -m train.features")
