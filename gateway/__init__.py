"""A gateway between Flashphoner Web Call Server and the web backends that decide its calls."""

__version__ = "0.1.0"
