"""The command itself: which cluster is asked, and how the answer is shown."""

from __future__ import annotations

import asyncio
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from navarch.cli.options import ProfileOption, elsewhere, profile_name
from navarch.cli.output import fail
from navarch.cluster.profile import ClusterError

if TYPE_CHECKING:
    from navarch.cli.why.reading import Question
    from navarch.cli.why.report import Report
    from navarch.client import ClientConfig

WIDTH_OF_FILES = 100


class WhyOutput(StrEnum):
    TEXT = "text"
    JSON = "json"


def why(
    context: typer.Context,
    words: Annotated[
        list[str], typer.Argument(metavar="POD | TYPE/NAME", help="Such as web-0 or job/backup.")
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Default: that of the context, or default.")
    ] = "",
    output: Annotated[WhyOutput, typer.Option("--output", "-o")] = WhyOutput.TEXT,
    tail: Annotated[int, typer.Option(help="Lines of each container's log.")] = 5,
    kubeconfig: Annotated[str, typer.Option(help="Ask any cluster, by this kubeconfig file.")] = "",
    kube_context: Annotated[
        str, typer.Option("--context", help="Ask any cluster, by this context of the kubeconfig.")
    ] = "",
    scheduler_config: Annotated[
        str,
        typer.Option(help="The KubeSchedulerConfiguration that the cluster's scheduler goes by."),
    ] = "",
    profile: ProfileOption = None,
) -> None:
    """Say why a pod is where it is or is not running: the verdict, then the chain from its owners
    to the last words of its containers."""
    from navarch.api.component_config import ConfigurationError
    from navarch.api.errors import ApiError
    from navarch.cli.why.reading import NotThereError
    from navarch.cli.why.targets import UnknownTypeError, target_of
    from navarch.client.config import ConfigError

    try:
        target = target_of(words)
        config, file = _cluster(context, profile, kubeconfig, kube_context)
        question = _question(target, namespace or config.namespace, tail, scheduler_config or file)
        report = asyncio.run(_asked(config, question))
    except NotThereError as error:
        fail(str(error), error.advice)
        raise typer.Exit(1) from None
    except (UnknownTypeError, ConfigError, ConfigurationError) as error:
        fail(str(error))
        raise typer.Exit(1) from None
    except ApiError as error:
        raise ClusterError(error.message, _advice(error.status)) from error
    if output is WhyOutput.JSON:
        print(report.json())
        return
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((WIDTH_OF_FILES, 0)).columns
    print(report.text(width, is_terminal))


def _advice(status: int) -> str:
    if status == 0:
        return "Does the cluster run? See: navarch status"
    if status == 403:
        return "Ask for the right to get, list pods and events in the namespace."
    return ""


def _cluster(
    context: typer.Context, profile: str | None, kubeconfig: str, kube_context: str
) -> tuple[ClientConfig, str]:
    """How to reach the cluster that is meant, and its scheduler's configuration if that is known.
    A kubeconfig or context goes first, then the profile; without any profile the user's own
    kubeconfig."""
    from navarch.client.config import ClientConfig, ConfigError
    from navarch.cluster import policies
    from navarch.cluster import profile as profiles

    name = profile_name(context, profile)
    found = profiles.load(name)
    if kubeconfig or kube_context or (found is None and not profile):
        return ClientConfig.load(kubeconfig, kube_context), ""
    if found is None:
        from navarch.cluster.stop import missing

        raise missing(name)
    if found.joined:
        raise elsewhere(found)
    paths = profiles.paths_of(name)
    config = ClientConfig.from_kubeconfig(paths.kubeconfig("admin"))
    try:
        own = ClientConfig.load("", name)
    except ConfigError:
        own = config
    if own.server == found.server:
        config = own if own.namespace != config.namespace else config
    file = policies.scheduler_config(paths)
    return config, str(file) if file.is_file() else ""


def _question(target: object, namespace: str, tail: int, file: str) -> Question:
    from navarch.cli.why.reading import Question
    from navarch.cli.why.targets import Target
    from navarch.scheduler.configuration.files import completed, load
    from navarch.scheduler.configuration.types import KubeSchedulerConfiguration
    from navarch.scheduler.main import settings_of

    assert isinstance(target, Target)
    configuration = load(Path(file)) if file else completed(KubeSchedulerConfiguration())
    settings = settings_of(configuration)
    remarks = ("what the scheduler's extenders say",) if settings.extenders else ()
    profiles = {profile.name: profile for profile in settings.profiles}
    return Question(target, namespace, tail, profiles, remarks)


async def _asked(config: ClientConfig, question: Question) -> Report:
    from navarch.cli.why.reading import Reader
    from navarch.client import Client

    async with Client(config.with_user_agent("why")) as client:
        return await Reader(client, question).report()
