"""Crossings: random changes through one door, each asked about at the others at once, against a model.

    python -m harness.crossings --count 100000 [--seed N]

A crossing is one acknowledged change and one other door that was asked about it.
"""
