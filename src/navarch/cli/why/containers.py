"""What is the matter with a container, from its state, the events about it, and its last words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from navarch.api.times import parse_duration
from navarch.api.types.core_v1 import ContainerStateTerminated
from navarch.cli.why.facts import Facts, Log, Part, parts_of
from navarch.cli.why.report import Line, State, Tone, Verdict
from navarch.cli.why.words import (
    ago,
    counted,
    duration,
    exit_code,
    latest,
    moment,
    shortened,
    since,
)

IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "SignatureValidation"
                 "Failed")  # fmt: skip
CREATION_REASONS = (
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
    "PreCreateHookError", "PreStartHookError", "PostStartHookError",
)  # fmt: skip
FIRST_BACKOFF, LONGEST_BACKOFF = 10, 300
"""Seconds between attempts to pull, as upstream's kubelet has them."""
CAUSES = (
    (r"manifest unknown|not found|no such image|does not exist", "no such image or tag",
     "check the image's name and tag"),
    (r"unauthorized|authentication required|denied|forbidden|no basic auth",
     "the registry refuses access", "check imagePullSecrets of the pod or its service account"),
    (r"x509|certificate", "the registry's certificate is not trusted",
     "let the nodes trust the registry's authority"),
    (r"no such host|lookup|name resolution", "the registry's name cannot be resolved",
     "check the registry's name and the node's DNS"),
    (r"timeout|refused|unreachable|no route|reset by peer|EOF|dial",
     "the registry cannot be reached", "check the way from the node to the registry"),
    (r"toomanyrequests|rate limit", "the registry's rate limit is reached",
     "wait, or pull with credentials or through a mirror"),
    (r"no match for platform|exec format|no matching manifest",
     "the image is not made for this kind of machine", "build it for the node's architecture"),
    (r"no space left", "the node's disk is full", "free disk space on the node"),
)  # fmt: skip
"""What a message about an image says, in plain words, and what to do."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a container does not run."""

    text: str
    remedies: tuple[str, ...] = ()
    state: State = State.BROKEN


def trouble(facts: Facts) -> Trouble | None:
    """What keeps containers from running; of several the first in the order of their start."""
    for part in parts_of(facts.pod):
        found = _trouble_of(facts, part)
        if found is not None:
            return found
    return None


def _trouble_of(facts: Facts, part: Part) -> Trouble | None:
    status = part.status
    if status is None or status.state is None:
        return None
    waiting, ended = status.state.waiting, status.state.terminated
    if waiting is not None:
        reason, message = waiting.reason, waiting.message
        if reason in IMAGE_REASONS:
            return _image(facts, part, message)
        if reason in ("InvalidImageName", "ErrImageNeverPull", "ImageInspectError"):
            text = {
                "InvalidImageName": "is not a valid image name",
                "ErrImageNeverPull": "is not on the node, and imagePullPolicy is Never",
            }.get(reason, f"cannot be looked at ({shortened(message)})")
            return Trouble(f"its image {part.spec.image} {text}")
        if reason in CREATION_REASONS:
            return Trouble(
                f"{part.title} cannot be started: {shortened(message or reason)}",
                _remedy_of_creation(message),
            )
        if reason == "CrashLoopBackOff":
            return _crashing(facts, part, message)
    # Where nobody will start it again the pod's phase tells how it went.
    is_over = facts.pod.status.phase in ("Succeeded", "Failed")
    return _crashing(facts, part, "") if ended and ended.exitCode and not is_over else None


def _image(facts: Facts, part: Part, message: str) -> Trouble:
    failed = [
        each.message
        for each in facts.happenings
        if each.reason == "Failed" and each.part in (part.spec.name, "")
        if each.message.startswith("Failed to pull image")
    ]
    said = failed[-1] if failed else message
    cause, remedy = shortened(said), "see the events below"
    for pattern, plain, advice in CAUSES:
        if re.search(pattern, said, re.IGNORECASE):
            cause, remedy = plain, advice
            break
    pulls = latest(facts.happenings, "Pulling", part=part.spec.name)
    tries = pulls.count if pulls else 0
    text = f"its image {part.spec.image} cannot be pulled ({cause})"
    if pulls is not None and tries:
        wait = min(FIRST_BACKOFF * 2 ** min(tries - 1, 9), LONGEST_BACKOFF)
        left = (pulls.last + timedelta(seconds=wait) - facts.now).total_seconds()
        text += f", tried {counted(tries, 'time')}, next try " + _in(left, "about ")
    return Trouble(text, (remedy,))


def _remedy_of_creation(message: str) -> tuple[str, ...]:
    if found := re.search(r'(configmap|secret) "([^"]+)" not found', message, re.IGNORECASE):
        kind = found[1].lower()
        create = f"kubectl create {'secret generic' if kind == 'secret' else kind} {found[2]} …"
        return (f"create the {kind} ({create}), or make the reference optional",)
    if "couldn't find key" in message:
        return ("add the key, or correct its name in the pod",)
    if "runAsNonRoot" in message or "non-root" in message:
        return ("set runAsUser to a number other than 0, or use an image that does not run as "
                "root",)  # fmt: skip
    if re.search(r"no such file|not found in \$PATH|executable file", message):
        return ("the command is not in the image: check command and args",)
    return ()


def _crashing(facts: Facts, part: Part, message: str) -> Trouble:
    """It ends again and again."""
    status = part.status
    assert status is not None
    ended = last_end(part)
    words = f"{part.title} crashes"
    if ended is not None:
        words = f"{part.title} ended with {_ending(facts, part, ended)}"
    if status.restartCount:
        words += f", restarted {counted(status.restartCount, 'time')}"
    next_try = _next_restart(message, ended, facts.now)
    if next_try:
        words += f", next start {next_try}"
    log = facts.logs.get(part.spec.name)
    if spoken := last_words(log, ended):
        words += f"; its last words: {shortened(spoken, 160)}"
    return Trouble(words, _remedies_of_end(part, ended))


def last_end(part: Part) -> ContainerStateTerminated | None:
    """How it ended last."""
    status = part.status
    if status is None:
        return None
    states = (status.state, status.lastState)
    return next((each.terminated for each in states if each and each.terminated), None)


def _ending(facts: Facts, part: Part, ended: ContainerStateTerminated) -> str:
    if ended.reason == "OOMKilled":
        limit = part.spec.resources.limits.get("memory", "")
        return "exit code 137, killed for using more memory than " + (
            f"its limit of {limit}" if limit else "the node had"
        )
    text = f"exit code {ended.exitCode} ({exit_code(ended.exitCode)}"
    if ended.exitCode in (137, 143):
        text += _killer(facts, part)
    return f"{text})"


def _killer(facts: Facts, part: Part) -> str:
    """Who sent the signal, as far as events tell."""
    killing = latest(facts.happenings, "Killing", part=part.spec.name)
    if killing is None:
        return ""
    for probe in ("liveness", "startup"):
        if f"failed {probe} probe" in killing.message:
            return f" because its {probe} probe failed"
    return f": {shortened(killing.message, 120)}"


def _remedies_of_end(part: Part, ended: ContainerStateTerminated | None) -> tuple[str, ...]:
    if ended is None:
        return ()
    if ended.reason == "OOMKilled":
        limited = "memory" in part.spec.resources.limits
        what = "raise resources.limits.memory" if limited else "ask for it in requests.memory"
        return (f"{what}, or let the program use less",)
    if ended.exitCode in (126, 127):
        command = " ".join([*part.spec.command, *part.spec.args]) or "the image's own command"
        return (f"check the command, which is: {shortened(command, 100)}",)
    if ended.exitCode == 0:
        return ("it ends though it is to run forever: check its command, or use a Job",)
    return ()


def _next_restart(message: str, ended: ContainerStateTerminated | None, now: datetime) -> str:
    found = re.search(r"back-off (\S+) restarting", message)
    finished = moment(ended.finishedAt) if ended is not None else None
    if found is None or finished is None:
        return ""
    try:
        wait = parse_duration(found[1])
    except ValueError:
        return ""
    return _in((finished + timedelta(seconds=wait) - now).total_seconds())


def _in(seconds: float, about: str = "") -> str:
    return f"in {about}{duration(seconds)}" if seconds >= 1 else "now"


def last_words(log: Log | None, ended: ContainerStateTerminated | None) -> str:
    """The last line that says something: of what the container left as its message, else of the
    log of the run that ended."""
    if ended is not None and ended.message.strip():
        return ended.message.strip().splitlines()[-1]
    lines = (log.previous or log.current) if log is not None else ()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def lines_of(facts: Facts) -> tuple[Line, ...]:
    """Each container: its state, how it ended before, its last words."""
    lines: list[Line] = []
    for part in parts_of(facts.pod):
        lines += _part_lines(facts, part)
    return tuple(lines)


def _part_lines(facts: Facts, part: Part) -> list[Line]:
    status, now = part.status, facts.now
    if status is None or status.state is None:
        return [Line(f"{part.title}: not begun", Tone.FAINT)]
    state, text, tone = status.state, "", Tone.PLAIN
    if state.running is not None:
        text = f"runs {since(state.running.startedAt, now)}"
        if not status.ready and not part.is_init:
            text, tone = f"{text}, not ready", Tone.BAD
    elif state.waiting is not None:
        text = f"waits: {state.waiting.reason or 'unknown'}"
        if state.waiting.message:
            text += f", {shortened(state.waiting.message)}"
        is_usual = state.waiting.reason in ("ContainerCreating", "PodInitializing", "")
        tone = Tone.PLAIN if is_usual else Tone.BAD
    elif state.terminated is not None:
        ended = state.terminated
        text = f"ended {ago(ended.finishedAt, now)}: {_ending(facts, part, ended)}"
        tone = Tone.BAD if ended.exitCode else Tone.PLAIN
    if status.restartCount:
        text += f"; restarted {counted(status.restartCount, 'time')}"
    lines = [Line(f"{part.title} ({part.spec.image}): {text}", tone)]
    before = status.lastState.terminated if status.lastState else None
    if before is not None:
        when = ago(before.finishedAt, now)
        lines.append(Line(f"before: ended {when}: {_ending(facts, part, before)}", depth=1))
    for each in (before, state.terminated):
        if each is not None and each.message.strip():
            lines.append(Line(f"termination message: {shortened(each.message)}", depth=1))
    return lines + _log_lines(facts.logs.get(part.spec.name))


def _log_lines(log: Log | None) -> list[Line]:
    if log is None:
        return []
    if log.problem:
        return [Line(f"log: {shortened(log.problem)}", Tone.FAINT, depth=1)]
    lines = []
    for title, told in (("log of the run before", log.previous), ("log", log.current)):
        if told:
            lines.append(Line(f"{title}, last {counted(len(told), 'line')}:", Tone.FAINT, depth=1))
            lines += [Line(each, depth=2, verbatim=True) for each in told]
    return lines


def as_verdict(found: Trouble, subject: str) -> Verdict:
    return Verdict(found.state, f"{subject} is not running: {found.text}", found.remedies)
