"""Tests of the transport: the HTTP client towards the backends."""
