"""The `navarch` command.

Two kinds of commands share it. What people type (`navarch start`) is built with typer; what runs
for weeks (`navarch apiserver`) must not carry typer and rich in memory, so component commands are
recognised before either is imported, and so is `navarch kubectl`, which becomes kubectl.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

PROFILE_WORDS = ("list", "use", "-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    from navarch.cluster.components import COMPONENTS

    if words and words[0] in COMPONENTS:
        return _component(words[0], words[1:])
    profile, rest = _leading_profile(words)
    if rest[:1] == ["kubectl"]:
        return _kubectl(profile, rest[1:])
    # `navarch profile NAME` is minikube's way to switch.
    if len(words) == 2 and words[0] == "profile" and words[1] not in PROFILE_WORDS:
        words.insert(1, "use")
    return _application(words)


def _application(words: list[str]) -> int:
    from navarch.cli.app import app
    from navarch.cli.output import fail
    from navarch.cluster.profile import ClusterError

    try:
        result = app(words, prog_name="navarch", standalone_mode=True)
    except ClusterError as error:
        fail(str(error), error.advice)
        return error.code
    except KeyboardInterrupt:
        fail("interrupted", "Run the same command again: it goes on where this one has stopped.")
        return 130
    except BrokenPipeError:
        # The reader has gone, as with `navarch logs | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A full disk, a file of another user: nothing of that is mended by a traceback.
        fail(str(error), "Mend it, and run the same command again.")
        return 1
    return int(result or 0)


def _component(name: str, words: list[str]) -> int:
    from navarch.cluster.components import COMPONENTS, options_from, parser_for, values_from_flags
    from navarch.cluster.daemon import run_components, start_logging

    run, kind = COMPONENTS[name].load()
    parser = parser_for(name, kind)
    values = vars(parser.parse_args(words))
    start_logging("DEBUG" if values.pop("verbose") else "INFO")
    try:
        options = options_from(values_from_flags(values, kind), kind)
    except ValueError as error:
        parser.error(str(error))
    return run_components({name: lambda: (run, options)})


def _leading_profile(words: list[str]) -> tuple[str, list[str]]:
    """`-p NAME` in front of the command, and the rest. Behind `kubectl` a -p is kubectl's."""
    if words[:1] in (["-p"], ["--profile"]) and len(words) > 1:
        return words[1], words[2:]
    if words and words[0].startswith("--profile="):
        return words[0].partition("=")[2], words[1:]
    return "", words


def _kubectl(profile: str, words: list[str]) -> int:
    """Become kubectl, with the profile's administrator as user."""
    import shutil

    from navarch.cli.output import fail
    from navarch.cluster import profile as profiles

    name = profile or profiles.current_name()
    config = profiles.paths_of(name).kubeconfig("admin")
    program = shutil.which("kubectl")
    if program is None:
        fail(
            "kubectl is not installed",
            "Run: sudo navarch setup. For a newer one see https://kubernetes.io/docs/tasks/tools/",
        )
        return 1
    found = profiles.load(name) if profiles.paths_of(name).profile.is_file() else None
    if found is not None and found.joined:
        from navarch.cli.options import elsewhere

        error = elsewhere(found)
        fail(str(error), error.advice)
        return error.code
    if not config.is_file():
        fail(f'Profile "{name}" not found.', "Run: navarch start")
        return profiles.NOT_FOUND
    arguments = words[1:] if words[:1] == ["--"] else words
    os.execve(program, ["kubectl", *arguments], {**os.environ, "KUBECONFIG": str(config)})


if __name__ == "__main__":
    sys.exit(main())
