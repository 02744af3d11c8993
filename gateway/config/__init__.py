"""The configuration: the typed model, YAML with line numbers, secrets, durations; one load function for all."""

from .load import Loaded, load, loads
from .model import Admin, App, Config, Credentials, Defaults, Log, MediaServer, Method, Server, Settings, Upstream
from .problems import ConfigError, Problem, path_text
from .schema import json_schema
from .values import Address, Secret, format_duration, parse_address, parse_duration, parse_size

__all__ = [
    "Address",
    "Admin",
    "App",
    "Config",
    "ConfigError",
    "Credentials",
    "Defaults",
    "Loaded",
    "Log",
    "MediaServer",
    "Method",
    "Problem",
    "Secret",
    "Server",
    "Settings",
    "Upstream",
    "format_duration",
    "json_schema",
    "load",
    "loads",
    "parse_address",
    "parse_duration",
    "parse_size",
    "path_text",
]
