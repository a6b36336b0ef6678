"""Build, train, evaluate, report and export: from labelled images to a model to serve.

    tfpipe pipeline train.zip --out=pets

It prints each command before it runs it, so that you can run one by itself with other flags. Run it
again after an interruption: a finished build, training or export is not repeated. --out gets the
folders records/, run/ and export/; --export_dir names another folder for the export.

--recipe=auto trains a head on frozen MobileNet features, which takes a minute for some thousand
images on two CPU cores. `tfpipe train --recipe=list` lists the others.
"""

import dataclasses
import pathlib
import shlex
import subprocess
import sys

from tfpipe.core import cli, recipes, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import arguments, option
from tfpipe.protocol import versions

AUTO = "auto"
_BEST = "mobilenet-frozen"


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    source: tuple[str, ...] = arguments("SOURCE", "folders, archives or lists of labelled images")
    out: str = option("folder for all results; empty for SOURCE-model in this folder", "")
    recipe: str = option("recipe of the training, or auto", AUTO)
    weights: str = option(
        "weights of the backbones, as of tfpipe train; empty for the recipe's", ""
    )
    require: str = option("what the model must reach to be exported, as log_loss<0.06", "")
    build_flags: str = option("further flags of tfpipe build, as '--labels=folder'", "")
    train_flags: str = option("further flags of tfpipe train, as '--epochs=5 --seed=1'", "")
    export_dir: str = option("folder of the export, as export/NAME; empty for OUT/export", "")


def main(options: Options) -> None:
    """Run every step that is not finished, and say what to run next."""
    out = pathlib.Path(options.out or _default_out(options.source[0])).expanduser()
    records, run = out / "records", out / "run"
    export = pathlib.Path(options.export_dir).expanduser() if options.export_dir else out / "export"
    name = _BEST if options.recipe == AUTO else options.recipe
    recipes.path(name)
    build_flags, train_flags = shlex.split(options.build_flags), shlex.split(options.train_flags)
    if options.weights:
        train_flags.append(f"--weights={options.weights}")
    sources = [f"--source={source}" for source in options.source]
    _run("build", *sources, f"--out={records}", *build_flags)
    _run("train", f"--recipe={name}", f"--records={records}", f"--run_dir={run}", *train_flags)
    _run("evaluate", f"--run_dir={run}")
    _run("report", f"--run_dir={run}")
    if is_exported(run, export):
        terminal.say(f"{export} has this model already")
    else:
        require = [f"--require={options.require}"] if options.require else []
        _run("export", f"--run_dir={run}", f"--export_dir={export}", *require)
    _show_next(run, export, export.name if options.export_dir else out.resolve().name)


def _default_out(source: str) -> str:
    name = source.rstrip("/").split("/")[-1].split(".")[0]
    if not name:
        raise UserError(
            f"`out` is missing, and {source!r} gives no name: give `out=FOLDER`", status=2
        )
    return f"{name}-model"


def _run(*command: str) -> None:
    """Print and run a command; end with its status if it fails."""
    terminal.say("")
    terminal.say(f"$ tfpipe {shlex.join(command)}")
    status = subprocess.run([sys.executable, "-m", "tfpipe", *command]).returncode
    if status:
        raise UserError(
            f"tfpipe {command[0]} ended with status {status}, and the next steps did not run: see"
            " above, then run this command again",
            status=status if status > 0 else 128 - status,
        )


def is_exported(run: pathlib.Path, export: pathlib.Path) -> bool:
    """Return whether there is a version that is newer than the training's end."""
    folders = versions.version_folders(export) if export.is_dir() else {}
    trained = (run / "calibration.json").stat().st_mtime
    return any(folder.stat().st_mtime > trained for folder in folders.values())


def _show_next(run: pathlib.Path, export: pathlib.Path, name: str) -> None:
    model = shlex.join([f"--model_name={name}", f"--model_base_path={export}"])
    terminal.result("")
    terminal.result(f"The report is {run / 'report.html'}.")
    terminal.result("Serve the model, and in another terminal ask it:")
    terminal.result(f"  tfpipe serve {model}")
    terminal.result(f"  tfpipe client {shlex.quote(f'--model_name={name}')} photo.jpg")
    terminal.result("Or classify many images into a file:")
    flag = shlex.quote(f"--run_dir={run}")
    terminal.result(f"  tfpipe predict {flag} --source=FOLDER --out=predictions.csv")


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
