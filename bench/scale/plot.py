"""The series as a picture and a table in `docs/performance.md`."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import PAGE, Row, figures, markdown, write_section
from bench.scale.cluster import API, CONTROL
from bench.scale.rows import Step

PICTURE = PAGE.parent / "images" / "scale.svg"
COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#c92a2a", "#0b7285", "#5f3dc4", "#495057")


def draw(steps: Sequence[Step]) -> None:
    """Three panels over the number of nodes: memory, latency, and cores."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file; letters stay letters, which people can search.
    matplotlib.rcParams.update({"svg.hashsalt": "navarch", "svg.fonttype": "none"})
    from matplotlib import pyplot

    nodes = [step.nodes for step in steps]
    labels = [f"{step.nodes:,}\n{step.pods:,}" for step in steps]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    memory, latency, cores = axes
    for name, colour in zip((API, CONTROL), COLOURS, strict=False):
        memory.plot(nodes, [step.memory[name] for step in steps], "o-", color=colour, label=name)
        cores.plot(nodes, [step.busy[name] for step in steps], "o-", color=colour, label=name)
        idle = [step.idle[name] for step in steps]
        cores.plot(nodes, idle, "o--", color=colour, label=f"{name}, idle")
    for verb, colour in zip(sorted(steps[0].latencies), COLOURS, strict=False):
        values = [step.milliseconds(verb, 0.99) for step in steps]
        latency.plot(nodes, values, "o-", color=colour, label=verb)
    memory.set_title("Memory (MB)")
    latency.set_title("p99 while a Deployment is rolled (ms)")
    latency.set_yscale("log")
    latency.set_ylim(1, 3000)
    latency.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    latency.axhline(1000, color="#868e96", linestyle=":")
    cores.set_title("Cores in use while it is rolled, and idle")
    for panel in axes:
        panel.set_xscale("log", base=2)
        panel.set_xticks(nodes, labels)
        panel.minorticks_off()
        panel.set_xlabel("nodes / pods")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, frameon=False, ncols=2 if panel is latency else 1)
    for panel in (memory, cores):
        panel.set_ylim(bottom=0)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def write(steps: Sequence[Step], rows: Sequence[Row]) -> None:
    """Put the figures where the page has room for them."""
    draw(steps)
    write_section("bench.scale", f"{_series(steps)}\n\n{figures(rows)}")


def _series(steps: Sequence[Step]) -> str:
    verbs = sorted(steps[0].latencies)
    lines = [["nodes / pods", *(f"{step.nodes:,} / {step.pods:,}" for step in steps)]]

    def line(what: str, values: Sequence[str]) -> None:
        lines.append([what, *values])

    for name in (API, CONTROL):
        line(f"memory, {name}", [f"{step.memory[name]:,.0f} MB" for step in steps])
    for name in (API, CONTROL):
        line(f"idle, {name}", [f"{100 * step.idle[name]:.1f} % of a core" for step in steps])
    line("roll of a Deployment", [f"{step.roll_seconds:.1f} s" for step in steps])
    for verb in verbs:
        values = [
            f"{step.milliseconds(verb, 0.5):.0f} / {step.milliseconds(verb, 0.99):.0f} ms"
            for step in steps
        ]
        line(f"{verb}, p50 / p99", values)
    return markdown(lines)
