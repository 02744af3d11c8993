"""The file as it is written: YAML with its lines, references to what lies elsewhere, problems with their places."""
