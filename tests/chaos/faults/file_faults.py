"""The configuration and certificates, as they come and go on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time

from tests.chaos.configs import BROKEN, Rules, half_of, other_rules, text_of
from tests.chaos.faults.registry import WATCHED, fault
from tests.chaos.stage import Stage

# --- the configuration ---


async def _trigger(stage: Stage, dice: random.Random, how: str | None = None) -> int:
    """Have the file read: by a signal, by a request, or by nobody; the status of a request's answer, else 0."""
    how = how or dice.choice(("signal", "request", "watch"))
    if how == "signal":
        with contextlib.suppress(ProcessLookupError):
            stage.gateway.send_signal(signal.SIGHUP)
    elif how == "request":
        answer = await stage.ask("/-/reload", "POST", timeout=15.0)
        if answer is None or answer.status_code in (403, 503):
            word = stage.last_refusal if answer is None else answer.status_code
            stage.wrong("operator", f"POST /-/reload got {word}")
        return 0 if answer is None else answer.status_code
    return 0


def _next(stage: Stage, dice: random.Random) -> Rules:
    stage.counts["configurations"] += 1
    return other_rules(stage.counts["configurations"], dice)


@fault("configuration")
async def good_by_rename(stage: Stage, dice: random.Random) -> None:
    """A good file, as editors and Kubernetes put it."""
    async with stage.files:
        rules = _next(stage, dice)
        stage.history.may_come(rules, time.monotonic())
        stage.write(text_of(rules, stage.place), rename=True)
        await _trigger(stage, dice)
        await stage.in_force(rules)


@fault("configuration")
async def good_in_place(stage: Stage, dice: random.Random) -> None:
    """A good file written over the old one."""
    async with stage.files:
        rules = _next(stage, dice)
        stage.history.may_come(rules, time.monotonic())
        stage.write(text_of(rules, stage.place), rename=False)
        await _trigger(stage, dice)
        await stage.in_force(rules)


@fault("configuration")
async def good_in_halves(stage: Stage, dice: random.Random) -> None:
    """A good file written in two parts, valid at the cut: half of it must never be taken by itself."""
    async with stage.files:
        rules = _next(stage, dice)
        text = text_of(rules, stage.place)
        half = half_of(text)
        stage.write(half, rename=False)
        await asyncio.sleep(dice.uniform(0.4, 1.3))
        stage.history.may_come(rules, time.monotonic())
        with stage.config.open("a") as file:
            file.write(text[len(half) :])
        await _trigger(stage, dice)
        await stage.in_force(rules)


@fault("configuration")
async def several_at_once(stage: Stage, dice: random.Random) -> None:
    """Good files faster than they can be taken."""
    async with stage.files:
        for _ in range(dice.randrange(3, 8)):
            rules = _next(stage, dice)
            stage.history.may_come(rules, time.monotonic())
            stage.write(text_of(rules, stage.place), rename=True)
            await _trigger(stage, dice, "signal")
            await asyncio.sleep(dice.uniform(0.0, 0.3))
        await stage.in_force(rules)


@fault("configuration")
async def broken(stage: Stage, dice: random.Random) -> None:
    """A broken file, asked for in every way; the one in force stays, and the fixed file is reloaded."""
    kind = dice.choice(sorted(BROKEN))
    stage.counts[f"broken: {kind}"] += 1
    async with stage.files:
        good = stage.history.newest
        stage.write(BROKEN[kind](text_of(good, stage.place)), rename=dice.random() < 0.5)
        status = await _trigger(stage, dice, "request")
        if status == 200:
            stage.wrong("broken_taken", f"a configuration that is broken ({kind}) was taken")
        if dice.random() < 0.5:
            await _trigger(stage, dice, "signal")
            await asyncio.sleep(dice.uniform(0.5, WATCHED))
        await _restore(stage, dice, good)


@fault("configuration")
async def away(stage: Stage, dice: random.Random) -> None:
    """No file at all, or a directory in its place."""
    async with stage.files:
        good = stage.history.newest
        stage.config.unlink()
        directory = dice.random() < 0.5
        if directory:
            stage.config.mkdir()
        if await _trigger(stage, dice) == 200:
            stage.wrong("broken_taken", "a configuration that is not there was taken")
        await asyncio.sleep(dice.uniform(0.3, 1.5))
        if directory:
            stage.config.rmdir()
        await _restore(stage, dice, good)


async def _restore(stage: Stage, dice: random.Random, good: Rules) -> None:
    """Put a good file there, another one than before, and see it taken."""
    rules = Rules(f"{good.revision}x", good.apps, good.recording)
    stage.history.may_come(rules, time.monotonic())
    stage.write(text_of(rules, stage.place), rename=True)
    await _trigger(stage, dice)
    await stage.in_force(rules)


@fault("reloads")
async def in_a_burst(stage: Stage, dice: random.Random) -> None:
    """Reloads of the same file, by signals and requests together."""
    async with stage.files:
        for _ in range(dice.randrange(5, 15)):
            await _trigger(stage, dice, dice.choice(("signal", "request")))
            await asyncio.sleep(dice.uniform(0.0, 0.1))


# --- certificates ---


@fault("certificates")
async def spoilt(stage: Stage, dice: random.Random) -> None:
    """Certificate or key spoilt for a moment, while a reload comes by."""
    if stage.certificates is None:
        return
    async with stage.files:
        path = dice.choice((stage.certificate, stage.key))
        good = path.read_bytes()
        bad = dice.choice((b"", good[: len(good) // 2], b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\x00" * 64))
        path.write_bytes(bad)
        await _trigger(stage, dice)
        await asyncio.sleep(dice.uniform(0.0, 0.5))
        path.write_bytes(good)
        await _trigger(stage, dice, "request")


@fault("certificates")
async def renewed(stage: Stage, dice: random.Random) -> None:
    """A new pair, one file after the other, while a reload comes by."""
    if stage.certificates is None:
        return
    async with stage.files:
        pair = dice.choice(stage.certificates).valid
        for path, new in zip((stage.certificate, stage.key), pair, strict=True):
            fresh = path.with_suffix(".fresh")
            fresh.write_bytes(new.read_bytes())
            os.replace(fresh, path)
            await _trigger(stage, dice, dice.choice(("signal", "watch")))
            await asyncio.sleep(dice.uniform(0.0, 0.3))
        await _trigger(stage, dice, "request")
        if not await stage.shows(pair[0]):
            stage.wrong("certificate", "the renewed certificate is not the one that is shown")


@fault("certificates")
async def mismatched(stage: Stage, dice: random.Random) -> None:
    """The certificate of one pair beside the key of another; then whole again, in place."""
    if stage.certificates is None:
        return
    async with stage.files:
        ours, theirs = stage.certificates
        stage.certificate.write_bytes(ours.valid[0].read_bytes())
        stage.key.write_bytes(theirs.valid[1].read_bytes())
        await _trigger(stage, dice, "request")
        await asyncio.sleep(dice.uniform(0.0, 0.5))
        stage.key.write_bytes(ours.valid[1].read_bytes())
        await _trigger(stage, dice, "request")
