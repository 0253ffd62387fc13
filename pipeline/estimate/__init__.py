"""`lipforge prepare --estimate`: what a run will give and cost, from a small sample of its sources. run.py first."""
