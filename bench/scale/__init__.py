"""Thousands of simulated nodes and their pods on one machine: what they cost and how fast they are.

`cluster` starts the processes as `navarch start --simulated` would, `load` fills them, `probes`
measures what a client sees meanwhile, `rows` and `bursts` are the figures, `plot` writes them into
the docs.
"""
