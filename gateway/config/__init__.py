"""The configuration: the typed model, YAML with line numbers, secrets, durations; one load function for all."""

from gateway.config.load import Loaded, file_digest, load, loads, text_digest
from gateway.config.reference import Key, Section, reference_sections
from gateway.config.schema import json_schema
from gateway.config.sections.addresses import (
    Address,
    AdminAddress,
    ListenAddress,
    SystemdAddress,
    UnixAddress,
    parse_address,
    parse_admin_address,
    parse_listen_address,
)
from gateway.config.sections.apps import DEDUPED, App, Defaults, Method, Settings
from gateway.config.sections.authorization import Credentials, Signature
from gateway.config.sections.root import Admin, Config, Log, MediaServer, Server
from gateway.config.sections.tls import ServerTls, UpstreamTls
from gateway.config.sections.tracing import Tracing
from gateway.config.sections.types import format_duration, parse_duration, parse_size
from gateway.config.sections.upstreams import Health, Target, Upstream
from gateway.config.source.display import display_secret, display_urls, display_value
from gateway.config.source.problems import ConfigError, Problem, describe_defect, path_text
from gateway.config.source.problems import Path as KeyPath

__all__ = [
    "DEDUPED",
    "Address",
    "Admin",
    "AdminAddress",
    "App",
    "Config",
    "ConfigError",
    "Credentials",
    "Defaults",
    "Health",
    "Key",
    "KeyPath",
    "ListenAddress",
    "Loaded",
    "Log",
    "MediaServer",
    "Method",
    "Problem",
    "Section",
    "Server",
    "ServerTls",
    "Settings",
    "Signature",
    "SystemdAddress",
    "Target",
    "Tracing",
    "UnixAddress",
    "Upstream",
    "UpstreamTls",
    "describe_defect",
    "display_secret",
    "display_urls",
    "display_value",
    "file_digest",
    "format_duration",
    "json_schema",
    "load",
    "loads",
    "parse_address",
    "parse_admin_address",
    "parse_duration",
    "parse_listen_address",
    "parse_size",
    "path_text",
    "reference_sections",
    "text_digest",
]
