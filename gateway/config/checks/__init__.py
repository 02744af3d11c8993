"""Checks across sections: what each value allows by itself, and all of them together do not."""
