"""Faults of all classes at once against one gateway, with a seed that repeats them, and an oracle that judges.

A run is a gateway with two workers and two tenants: *victim*, whose backend misbehaves, and *untouched*, whose backend
is well. Callers and backends are processes of their own (``load``, ``backend``) that write down what they saw, a JSON
object a line; ``oracle`` compares the two after every step with the configurations that were in force (``configs``).
"""
