"""Admission policies: rules of admission that are objects themselves, written in CEL.

A policy says which requests it is about and what must hold for them (or how they are changed); a
binding puts it into force, for a part of the requests and with parameters. (KEP-3488, KEP-3962)
"""
