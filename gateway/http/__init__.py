"""HTTP/1.1 on both sides, and TLS: the strict server for hooks, the pooled client for backends."""
