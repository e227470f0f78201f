"""What Navarch promises of its data, tried out: `python -m bench.reliability`.

Each promise is a row of `docs/reliability.md`. A real API server process works over a real database
on the disk; clients write, read and watch; the server is killed, connections are cut, bits flip;
and what the clients were told is then held against what is there.
"""
