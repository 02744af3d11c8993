"""Tests of the memory that workers share, by several of them in one process and in several."""
