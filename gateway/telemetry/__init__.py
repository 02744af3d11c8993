"""What is told of decisions: log, journal, metrics, traces, results of shadows."""
