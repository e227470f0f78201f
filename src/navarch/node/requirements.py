"""What a configuration may demand of the machine before the agent starts: no swap, cgroup v2,
certain settings of the kernel. The texts are upstream's."""

from __future__ import annotations

from pathlib import Path

from .settings import NodeOptions

KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What `protectKernelDefaults` wants to find. The agent itself changes none of them: the machine is
somebody else's."""


class RequirementError(RuntimeError):
    """The machine is not as the configuration demands."""


def check_requirements(options: NodeOptions, *, unified: bool, proc: Path = Path("/proc")) -> None:
    """Raises RequirementError. `unified`: the machine has cgroup v2."""
    if options.fail_cgroup_v1 and not unified:
        raise RequirementError(
            "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is "
            "unsupported and will be removed in a future release"
        )
    if options.fail_swap_on:
        _check_swap(proc / "swaps")
    if options.protect_kernel_defaults:
        problems = [
            f"invalid kernel flag: {name}, expected value: {wanted}, actual value: {actual}"
            for name, wanted in KERNEL_SETTINGS.items()
            if (actual := _setting(proc / "sys" / name)) != str(wanted)
        ]
        if problems:
            text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise RequirementError(text)


def _check_swap(file: Path) -> None:
    try:
        lines = file.read_text().strip().splitlines()
    except OSError:
        return  # a kernel without swap
    if len(lines) > 1:
        devices = "\\n".join(lines)
        raise RequirementError(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag "
            f"to false. /proc/swaps contained: [{devices}]"
        )


def _setting(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return "unknown"


def protect_from_oom(score: int, file: Path = Path("/proc/self/oom_score_adj")) -> bool:
    """Has the kernel spare this process when memory runs out; False where it may not."""
    try:
        file.write_text(str(score))
    except OSError:
        return False
    return True
