"""A schema-driven fuzzer of the API server: `python -m tests.fuzz --requests 200000 --seed 1`.

`values` has odd values, `generator` makes requests of them and of the schema facts, `client` sends
them byte by byte as they are, `runner` judges the answers.
"""
