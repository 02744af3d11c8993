"""Certificates and handshakes of the hook port and of the backends: what is loaded, watched, counted."""
