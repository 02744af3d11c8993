"""Several gateways that work as one, through a Redis or Valkey server: the ``state`` of the configuration.

Local state decides, the shared server informs: nothing here can make a hook fail, and only the claim of a hook that
must be decided once (``state.dedupe``) waits for the server, for ``state.timeout`` at most. While the server is away,
each gateway decides as if it were alone.

``link`` is the connection to the server; ``membership`` says who lives. The main process has one ``FleetAgent``
(``agent``), which knows its own gateway as ``Local`` (``local``). redis-py and hiredis are loaded by ``dial`` alone,
and only where ``state`` is configured.
"""
