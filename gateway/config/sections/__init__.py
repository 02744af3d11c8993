"""The configuration's model, one file a section: every key, what it may be, its default, its meaning."""
