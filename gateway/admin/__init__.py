"""The admin port: metrics, health, reload, the API of calls and upstreams, and the stream that the console reads."""
