"""What must hold on bad days: what was answered 200 is delivered, once and in order, and hooks beside it are unharmed.

Real gateways, stores and backends; ``stage.py`` starts them, and ``tests/support/spool_oracle.py`` judges.
"""
