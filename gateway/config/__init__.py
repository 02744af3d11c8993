"""The configuration: the typed model, YAML with line numbers, secrets, durations; one load function for all."""

from .addresses import Address, UnixAddress, parse_address, parse_listen_address
from .apps import DEDUPED, App, Defaults, Method, Settings
from .authorization import Credentials, Signature
from .backends import Health, Target, Upstream
from .load import Loaded, digest_at, digest_of, load, loads
from .model import Admin, Config, Log, MediaServer, Server
from .problems import ConfigError, Problem, in_words, path_text
from .problems import Path as KeyPath
from .reference import Key, Section, sections
from .schema import json_schema
from .tls import ServerTls, UpstreamTls
from .tracing import Tracing
from .values import Secret, format_duration, parse_duration, parse_size
from .written import fit_to_show, written_urls

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
    "Key",
    "KeyPath",
    "Loaded",
    "Log",
    "MediaServer",
    "Method",
    "Problem",
    "Secret",
    "Section",
    "Server",
    "ServerTls",
    "Settings",
    "Signature",
    "Target",
    "Tracing",
    "UnixAddress",
    "Upstream",
    "UpstreamTls",
    "digest_at",
    "digest_of",
    "fit_to_show",
    "format_duration",
    "in_words",
    "json_schema",
    "load",
    "loads",
    "parse_address",
    "parse_duration",
    "parse_listen_address",
    "parse_size",
    "path_text",
    "sections",
    "written_urls",
]
