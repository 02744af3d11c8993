"""The configuration: the typed model, YAML with line numbers, secrets, durations; one load function for all."""

from .backends import Credentials, Health, Target, Upstream
from .load import Loaded, digest_of, load, loads
from .model import DEDUPED, Admin, App, Config, Defaults, Log, MediaServer, Method, Server, Settings
from .problems import ConfigError, Problem, path_text
from .schema import json_schema
from .values import Address, Secret, format_duration, parse_address, parse_duration, parse_size

__all__ = [
    "DEDUPED",
    "Address",
    "Admin",
    "App",
    "Config",
    "ConfigError",
    "Credentials",
    "Defaults",
    "Health",
    "Loaded",
    "Log",
    "MediaServer",
    "Method",
    "Problem",
    "Secret",
    "Server",
    "Settings",
    "Target",
    "Upstream",
    "digest_of",
    "format_duration",
    "json_schema",
    "load",
    "loads",
    "parse_address",
    "parse_duration",
    "parse_size",
    "path_text",
]
