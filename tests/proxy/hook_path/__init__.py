"""Tests of a hook's way through a real gateway to a real backend and back."""
