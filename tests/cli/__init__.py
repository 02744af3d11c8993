"""Tests of the command line as a user meets it: what it prints, where, and with which exit status."""
