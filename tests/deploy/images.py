"""Builds an image by a Dockerfile, and runs it, where there is no container engine: ``images.py build|run …``.

This host's own file system stands for the base image, under an overlay; Python's program is where the official image
has it. So the steps of the Dockerfile really run, and so does what they leave behind: as its user, in a file system
that cannot be written to, as the first process of its own. What is not shown is the base image itself, and what of
this host the base image lacks. Only what our Dockerfile says is understood. Needs root; both verbs expect to be run in
a mount namespace of their own (``unshare --mount``), which takes all mounts with it when it ends.

    build DOCKERFILE CONTEXT IMAGE                         IMAGE: a directory that is made; gets image.json and files/
    run IMAGE [-v SOURCE:TARGET[:ro] …] [-e NAME=VALUE …]       the entrypoint with its command, as the last process
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

BASE_PATH: Final = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Image:
    """What an image says of itself, or a stage of the build."""

    env: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stopsignal: str = "SIGTERM"
    exposed: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction's name and the rest of it, lines joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def expand(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: values[match[1] or match[2]], text)


class Build:
    """One build: stages one after the other, each an overlay of its own on this host."""

    def __init__(self, context: Path, work: Path) -> None:
        self._context = context
        self._work = work
        self._roots: list[tuple[str, Path]] = []
        self._args: dict[str, str] = {}
        self.image = Image()
        self.files = work

    def step(self, name: str, rest: str) -> None:
        match name:
            case "ARG":
                key, _, value = rest.partition("=")
                self._args[key] = value
            case "FROM":
                self._begin(expand(rest, self._args))
            case "WORKDIR":
                self.image.workdir = rest
                self._inside(rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(shlex.split(rest))
            case "RUN":
                self._run(["/bin/sh", "-c", rest])
            case _:
                self._describe(name, rest)

    def _describe(self, name: str, rest: str) -> None:
        match name:
            case "ENV":
                pairs = (word.partition("=") for word in shlex.split(rest))
                self.image.env.update({key: expand(value, self.image.env) for key, _, value in pairs})
            case "USER" | "STOPSIGNAL":
                setattr(self.image, name.lower(), rest)
            case "EXPOSE":
                self.image.exposed = rest.split()
            case "ENTRYPOINT" | "CMD":
                setattr(self.image, name.lower(), json.loads(rest))
            case "HEALTHCHECK":
                self.image.healthcheck = json.loads(rest.partition(" CMD ")[2])
            case _:
                raise ValueError(f"not understood: {name}")

    def _begin(self, what: str) -> None:
        base, _, name = what.partition(" AS ")
        if not re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base):
            raise ValueError(f"the base is not pinned to a release: {base}")
        self.image = Image()
        self.files, scratch, root = (self._work / f"{len(self._roots)}-{kind}" for kind in ("files", "work", "root"))
        for directory in (self.files, scratch, root):
            directory.mkdir()
        overlay = f"lowerdir=/,upperdir={self.files},workdir={scratch}"
        mount("-t", "overlay", "overlay", "-o", overlay, str(root))
        self._roots.append((name, root))
        # Where the official image has it.
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for name, place in (
            ("bin/python3", Path(sys.executable).resolve()),
            (f"lib/{version}", Path(os.__file__).parent),
        ):
            link = root / "usr/local" / name
            if link.is_dir() and not link.is_symlink():
                shutil.rmtree(link)
            link.unlink(missing_ok=True)
            link.symlink_to(place)
        # Where Python is under root's home, others have to reach it there.
        for parent in Path(sys.executable).resolve().parents:
            inside = root / parent.relative_to("/")
            inside.chmod(inside.stat().st_mode | 0o055)

    def _inside(self, path: str) -> Path:
        return self._roots[-1][1] / Path(self.image.workdir, path).relative_to("/")

    def _copy(self, words: list[str]) -> None:
        options = dict(word[2:].split("=") for word in words if word.startswith("--"))
        *sources, target = (word for word in words if not word.startswith("--"))
        origin = dict(self._roots)[options["from"]] if "from" in options else self._context
        to = self._inside(target)
        for source in sources:
            path = origin / source.removeprefix("/")
            if path.is_dir():
                shutil.copytree(path, to, symlinks=True, dirs_exist_ok=True)
                continue
            name = to / path.name if target.endswith("/") else to
            name.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, name)
            name.chmod(int(options.get("chmod", "0644"), 8))

    def _run(self, command: list[str]) -> None:
        root = self._roots[-1][1]
        mount("--rbind", "/dev", str(root / "dev"))
        mount("-t", "proc", "proc", str(root / "proc"))
        # The host's own settings for pip go in: where packages come from is no business of the image.
        subprocess.run(
            ["chroot", str(root), "env", "-C", self.image.workdir, *command],
            env={**os.environ, **self._args, **self.image.env, "HOME": "/root"},
            check=True,
        )


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def build(dockerfile: Path, context: Path, image: Path) -> None:
    """The image by a Dockerfile; the context is what its ignore file leaves of a directory."""
    mount("-t", "tmpfs", "tmpfs", "/mnt")
    work = Path("/mnt")
    building = Build(allowed(dockerfile, context, work / "context"), work)
    for name, rest in instructions(dockerfile.read_text()):
        building.step(name, rest)
    copy_layer(building.files, image / "files")
    (image / "image.json").write_text(json.dumps(asdict(building.image)))


def copy_layer(source: Path, target: Path) -> None:
    """Copy what steps have left behind, with its owners."""
    shutil.copytree(source, target, symlinks=True)
    for path in source.rglob("*"):
        status = path.lstat()
        if status.st_uid or status.st_gid:
            os.chown(target / path.relative_to(source), status.st_uid, status.st_gid, follow_symlinks=False)


def allowed(dockerfile: Path, context: Path, copy: Path) -> Path:
    """What the ignore file lets through, which here excludes all but the named."""
    lines = dockerfile.with_name(dockerfile.name + ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    if rules[0] != "*":
        raise ValueError("the ignore file is one that names what is let through")
    patterns = [line.removeprefix("**/") for line in rules if line.startswith("**/")]
    for name in (line[1:] for line in rules if line.startswith("!")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (context / name).is_dir():
            shutil.copytree(context / name, copy / name, ignore=shutil.ignore_patterns(*patterns))
        else:
            shutil.copy(context / name, copy / name)
    return copy


def run(image: Path, options: list[str]) -> None:
    """Become the image's first process; its file system is made of layers that cannot be written to."""
    described = Image(**json.loads((image / "image.json").read_text()))
    env = dict(described.env)
    volumes: list[tuple[str, str, str]] = []
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == "-e":
            name, _, given = value.partition("=")
            env[name] = given
        else:
            source, target, *options = value.split(":")
            volumes.append((source, target, "ro" if "ro" in options else "rw"))
    # A layer on the file system that it lies upon is refused; and where a volume goes has to be there already.
    mount("-t", "tmpfs", "tmpfs", "/mnt")
    layer, root = Path("/mnt/files"), Path("/mnt/root")
    copy_layer(image / "files", layer)
    for directory in (root, *(layer / target.removeprefix("/") for _, target, _ in volumes)):
        directory.mkdir(parents=True, exist_ok=True)
    mount("-t", "overlay", "overlay", "-o", f"lowerdir={layer}:/", str(root))
    for source, target, option in volumes:
        mount("--bind", "-o", option, source, str(root / target.removeprefix("/")))
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("--rbind", "/dev", str(root / "dev"))
    user, group = described.user.split(":")
    rights = [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    inside = ["env", "-i", "-C", described.workdir, *(f"{key}={value}" for key, value in env.items())]
    os.execvp("chroot", ["chroot", str(root), "setpriv", *rights, *inside, *described.entrypoint, *described.cmd])


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb == "build":
        build(*map(Path, words))
    else:
        run(Path(words[0]), words[1:])
