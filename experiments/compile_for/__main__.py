"""Compile outer steps for GPUs and TPUs on a machine without them: memory, work, communication.

Question: does the program of every method compile for an H100 and a TPU v5e, does it fit the chip's memory,
and what do the chips of a pod send to each other?

    pip install -e ".[cuda-compiler,tpu-compiler]"
    python -m experiments.compile_for                                every method at its paper's size, H100
    python -m experiments.compile_for --platforms=h100,tpu_v5e --sets=methods,gradients,memory,pods

Sets of programs: `methods`, with their papers' settings; `gradients`, every method that trains inner steps
with every other gradient; `memory`, ConvNet-3 of width 128 with T inner steps by every gradient; `pods`, a
learner on every chip. The data are noise in the shape of MNIST. On 2 cores a program takes 5 to 30 seconds
for an H100 and minutes for a TPU, whose compiler needs 100 seconds for the gradient of one 5x5 convolution by
its weights; a pod of LeNets takes more than twelve minutes and 15 GB. Writes rows.csv, compile_for.md, .png
and result.json; run the same command again to resume. If a program does not fit, its row says by how much.

Memory is what the compiler plans for one chip: temporaries, arguments (50,000 images, the state) and results.
Operations are those of the matrix products and convolutions of an outer step, with loops counted; ">=" if a
loop runs until it converges.
"""

from typing import Any, ClassVar

from experiments import cli
from experiments.compile_for.chips import CHIPS, check_there
from experiments.compile_for.figure import draw
from experiments.compile_for.rows import COLUMNS, lines, row
from experiments.programs import SETS, SMOKE, data, programs, tiny
from experiments.records import Damaged, kept
from experiments.tables import as_csv, as_markdown
from jaxdistill.config.option import Options as Base
from jaxdistill.config.option import option, options
from jaxdistill.config.resolve import filled
from jaxdistill.config.saved import chosen_of
from jaxdistill.core.checks import fail, one_of
from jaxdistill.runtime import profile, progress
from jaxdistill.runtime.atomic import atomic_write
from jaxdistill.runtime.rundir import open_run


@options
class Options(Base):
    title: ClassVar[str] = "compilation"
    platforms: tuple[str, ...] = option(("h100",), "chips to compile for", known=tuple(CHIPS), some=True)
    sets: tuple[str, ...] = option(("methods",), "sets of programs", known=SETS, some=True)
    programs: tuple[str, ...] = option((), "names of programs to compile, as in the table (default: all)")
    run_dir: str = option("runs/compile_for", "folder to write into; a run that is already there is resumed")
    smoke: bool = option(False, "a trial of a minute: three tiny programs")


def run(chosen: Options) -> dict[str, Any]:
    """Compiles, row by row; writes and prints the table.

    Returns:
      {"rows", "config", "environment"}.

    Raises:
      UserError: bad input or a compiler that is missing, before anything is compiled; at the end, programs
        that did not compile for another reason than memory.
    """
    chosen = chosen.with_smoke({"sets": ("methods", "gradients")})
    given = filled(chosen)
    check_there(given.platforms)
    todo = [(chip, name, each) for chip in given.platforms for name, each in _programs(given, chip).items()]
    images = data(8, 2000) if given.smoke else data(28, 60_000)
    saved = {"smoke": given.smoke, "seed": 0}
    with open_run(given.run_dir, saved, experiment="compile_for", chosen=chosen_of(chosen)) as directory:
        for note in directory.notes:
            progress.say(f"note: {note}")
        rows, failed, commit = [], {}, profile.git_commit()
        times = progress.Rows(len(todo), "fewer sets, or chosen programs, take less")
        for number, (chip, name, program) in enumerate(todo, start=1):
            file = directory.path / "rows" / f"{chip}-{name.replace('/', '-')}.json"

            def make(number=number, name=name, program=program, chip=chip) -> dict[str, Any]:
                progress.say(f"{number}/{len(todo)}: {name} for {CHIPS[chip].title} ...")
                return {"commit": commit, **row(name, program, chip, images)}

            there = file.exists()
            try:
                rows.append(kept(directory, file, make))
            except Damaged:
                raise
            except Exception as error:  # one program stops no other; it is tried again by the next call
                failed[f"{name} for {chip}"] = f"{type(error).__name__} {error}".strip().splitlines()[0]
            times.done(made=not there)
        result = {"rows": rows, "config": saved, "environment": directory.environment}
        directory.write_json("result.json", result)
        numbers = [{name: value for name, value in each.items() if name != "settings"} for each in rows]
        texts = {"rows.csv": as_csv(numbers), "compile_for.md": as_markdown(COLUMNS, list(lines(rows)))}
        for name, text in texts.items():
            atomic_write(directory.path / name, lambda file, text=text: file.write(text.encode()))
        draw(directory.path / "compile_for.png", rows)
    progress.table("\nOuter steps, compiled", list(COLUMNS), list(lines(rows)))
    if failed:
        listed = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise fail("compile_for", "programs that compile", listed)
    return result


def _programs(given: Options, chip: str) -> dict[str, Any]:
    found = programs(given.sets, CHIPS[chip].platform)
    if given.smoke:
        found = {name: tiny(each) for name, each in found.items() if name in SMOKE}
    for name in given.programs:
        one_of("programs", name, tuple(found))
    return {name: each for name, each in found.items() if name in (given.programs or found)}


if __name__ == "__main__":
    cli.main(run, Options, __doc__)
