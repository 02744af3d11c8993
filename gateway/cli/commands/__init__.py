"""The commands, by what they do: each adds its own to the command line."""
