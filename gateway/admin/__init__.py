"""The admin port: metrics, health, reload, the API of decisions and upstreams, the event stream, the console."""
