"""Tests of several workers on one port."""
