"""The control groups of this process, where Linux keeps the limits of containers and batch jobs."""

import pathlib

# Where Linux mounts them: version 2 as one tree, version 1 as a tree for each controller.
ROOT = pathlib.Path("/sys/fs/cgroup")

_OF_PROCESS = pathlib.Path("/proc/self/cgroup")


def folders(
    controller: str, root: pathlib.Path = ROOT, of_process: pathlib.Path = _OF_PROCESS
) -> list[pathlib.Path]:
    """Return the folders of the process's group and of all groups around it, innermost first.

    The limits of each of them hold. Inside a container the paths in `of_process` often lie outside
    of the mounted tree; then the tree's root is the container's group.

    Args:
        controller: "memory" or "cpu".
        root: where the trees are mounted.
        of_process: Linux's list of the process's groups (cgroups(7)): lines "N:CONTROLLERS:PATH",
            without controllers for version 2.
    """
    if not of_process.is_file():
        return []
    found = []
    for line in of_process.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        tree = root / controller if controllers else root
        names = [name for name in path.split("/") if name]
        if ".." in names:
            names = []
        found += [tree.joinpath(*names[:count]) for count in range(len(names), -1, -1)]
    return [folder for folder in found if folder.is_dir()]


def text(folder: pathlib.Path, *names: str) -> str:
    """Return the first of these files of a group that exists, without the line's end; or ""."""
    for name in names:
        file = folder / name
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
    return ""
