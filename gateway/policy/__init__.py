"""The rules by which hooks are decided: pure, with the clock passed in."""
