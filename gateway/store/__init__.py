"""What the gateway keeps on disk: the history of decisions, and the spool of events that are delivered later.

One process of its own owns the databases (SQLite, or a connection to PostgreSQL). Those that decide hooks talk with it
over a socket (``messages``, ``client``): no hook ever waits for a disk, except an event for the few milliseconds in
which it is committed. SQLAlchemy is loaded only in that process, and in the commands that open the store themselves.
"""
