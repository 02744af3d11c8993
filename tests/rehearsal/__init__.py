"""A backend is replaced, from the first recorded hook to the rollback, with everything real but the calls.

``make rehearsal``, or ``python -m tests.rehearsal``: PHP under Apache as the old backend, a small Python program as
the new one, and a gateway whose configuration is rewritten under load. Prints a Markdown table, and
ends with 1 if a hook was lost, got an answer that it should not, or something planted was not found. It asserts
nothing of times.
"""
