"""`experiments.league`: equal time and storage, chosen on validation, resumed; its table and its sets."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import message

from experiments import cli, distill
from experiments.league import entries, page, rows, run, scores, sets, table
from experiments.league.entries import common, entry
from experiments.league.setting import SMOKE, Options, prepared
from jaxdistill.config.resolve import filled, resolve
from jaxdistill.config.table import Config
from jaxdistill.core.checks import UserError
from jaxdistill.core.types import Batch, Stored
from jaxdistill.evaluation import augmentation_robust_score, label_robust_score
from jaxdistill.methods import METHODS
from jaxdistill.methods.recipe import Facts
from jaxdistill.runs.plan import identity_of
from jaxdistill.runs.run import Synthetic
from jaxdistill.runtime.export import write_synthetic

FITTING = {"num_outer_steps": 40, "seconds_per_step": 0.5, "program_bytes": 2**20, "all_bytes": 2**21}
SHORT = SMOKE | {"architectures": ("mlp",), "methods": ("dm", "frepo")}


def league_of(**chosen):
    return prepared(Options(**SHORT | chosen))


def score(mean, architecture, protocol, loss="cross_entropy", labels=None):
    about = {"architecture": architecture, "protocol": protocol, "loss": loss}
    about |= {} if labels is None else {"labels": labels}
    return about | {"mean": mean, "std": 0.01, "every": [mean] * 2, "step_size": 0.1}


@pytest.fixture
def pretended(monkeypatch):
    """What was fitted, distilled and tested by a league that only pretends to."""
    called = SimpleNamespace(fitted=[], distilled=[], tested=[], validated=[])

    def fitting(plan, seconds):
        called.fitted.append((plan, seconds))
        return FITTING

    def plan(league, own, candidate, experts):
        if own.method != "gtn":
            return candidate.name
        stored = Stored({}, 100_000, 32 * 100_000)
        method = SimpleNamespace(init=lambda key: key, stored=lambda state: stored)
        return SimpleNamespace(
            method=method, key=jax.random.key(0), config=SimpleNamespace(teacher="generator")
        )

    def distilled(league, made, own, candidate, experts, steps):
        called.distilled.append((candidate.name, steps, experts))
        images = np.asarray(league.data.train.x[:10])
        labels = np.eye(10, dtype=np.float32) * (2.0 if own.method == "frepo" else 1.0)
        kind = "free" if own.method == "frepo" else "probabilities"
        folder = made.directory.path / "cells" / candidate.name
        folder.mkdir(parents=True, exist_ok=True)
        write_synthetic(
            folder / "synthetic.npz",
            images=images,
            labels=labels,
            order=[range(10)],
            hyperparameters={},
            info=league.data.info,
            method=own.method,
            learner={},
            inner={},
            free=kind == "free",
        )
        return SimpleNamespace(
            synthetic=Synthetic(images, labels, np.arange(10)[None]),
            config=SimpleNamespace(labels=kind),
            finished=SimpleNamespace(seconds=20.0 + len(called.distilled), compile_seconds=1.0),
            stored=Stored({}, 640, 640 * 32),
            data=league.data,
            name=candidate.name,
        )

    def scored(league, architecture, protocol, images, labels):
        called.tested.append((architecture, protocol, labels))
        loss = "squared" if labels == "free" else "cross_entropy"
        return score(0.9 if labels == "free" else 0.8, architecture, protocol, loss)

    def of_random_real(league, architecture, protocol, per_class, *, squared=False):
        loss = "squared" if squared else "cross_entropy"
        return score(0.4 if squared else 0.5, architecture, protocol, loss)

    def on_validation(league, images, labels):
        called.validated.append(labels)
        return 0.1 * len(called.validated)

    monkeypatch.setattr(rows, "fitting", fitting)
    monkeypatch.setattr(rows, "_plan", plan)
    monkeypatch.setattr(rows, "_distilled", distilled)
    monkeypatch.setattr(rows, "scored", scored)
    monkeypatch.setattr(rows, "of_random_real", of_random_real)
    monkeypatch.setattr(rows, "on_validation", on_validation)
    full = SimpleNamespace(found=SimpleNamespace(score=SimpleNamespace(as_row=lambda: FULL)))
    full.as_fields = dict
    monkeypatch.setattr(rows, "full_set", lambda evaluation, data, options: full)
    return called


FULL = {"mean": 0.95, "std": 0.0, "every": [0.95]}


def test_a_league_from_start_to_end_and_again(tmp_path, capsys, monkeypatch, pretended):
    chosen = SHORT | {"factors": (0.3, 1.0), "seconds_per_method": 8.0, "methods": ("dm", "frepo", "gtn")}
    result = run.run(Options(**chosen, run_dir=tmp_path / "run"))
    out = capsys.readouterr().out
    # one measurement of outer steps per method, candidates share its time, each is scored on validation once
    assert pretended.fitted == [("dm-0.3", 4.0), ("frepo-0.3", 4.0)]
    assert [name for name, *_ in pretended.distilled] == [
        *("dm-0.3", "dm-1", "dm-1", "frepo-0.3", "frepo-1", "frepo-1")
    ]
    assert pretended.validated == ["probabilities", "probabilities", "free", "free"]
    by_name = {row["entry"]: row for row in result["rows"]}
    assert by_name["dm"]["chosen"] == "dm-1" and by_name["dm"]["outer_steps"] == 40
    assert by_name["dm"]["searched_seconds"] == 43.0
    assert "at most ipc:1 with method=gtn" in by_name["gtn"]["note"]
    assert "--num_outer_steps=40" in by_name["frepo"]["command"] and "\nNo row of gtn: budget" in out
    lines = {(line["entry"], line["labels"]): line for line in result["lines"]}
    assert next(iter(lines)) == ("frepo", "soft") and [n for n, _ in lines][-2:] == ["full set", "gtn"]
    # soft labels that are no probabilities are compared with random real images under the same loss
    assert lines["frepo", "soft"]["lrs"] == label_robust_score(
        full_data=0.95, hard_labels=0.8, own_labels=0.9, random_real=0.4
    )
    assert lines["frepo", "hard"]["lrs"] == label_robust_score(
        full_data=0.95, hard_labels=0.8, own_labels=0.8, random_real=0.5
    )
    assert lines["dm", "hard"]["ars"] == augmentation_robust_score(
        augmented=0.8, random_augmented=0.5, plain=0.8, random_plain=0.5
    )
    for name in ("league.json", "league.csv", "league.md", "league.png", "league.html"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    for name in ("league.md", "league.html"):
        text = (tmp_path / "run" / name).read_text()
        assert table.SAYS in text and "none: budget" in text and "kernel herding" in text
    before = len(pretended.tested), len(pretended.distilled)
    again = run.run(Options(**chosen | {"methods": ("dm",)}, run_dir=tmp_path / "run"))
    assert (len(pretended.tested), len(pretended.distilled)) == before  # nothing is made again
    assert {row["entry"] for row in again["rows"]} == set(by_name)  # rows that are there stay
    with monkeypatch.context() as patch:
        patch.setitem(entries.CHANGES, "dm", ({"num_learners": 2},))
        with pytest.raises(UserError, match=r"dm-num_learners-2.*Choose another run_dir\.$"):
            run.run(Options(**chosen, run_dir=tmp_path / "run"))
    with pytest.raises(UserError, match=r"seconds_per_method: 8\.0 there, 9\.0 here"):
        run.run(Options(**chosen | {"seconds_per_method": 9.0}, run_dir=tmp_path / "run"))
    file = tmp_path / "run/rows/dm.json"
    for damaged, says in (("{", "a readable"), ('{"status": "done"}', "with entry in")):
        file.write_text(damaged)
        with pytest.raises(UserError) as error:
            run.run(Options(**chosen, run_dir=tmp_path / "run"))
        assert says in message(error) and "Delete it" in message(error)
    file.unlink()  # a row is put together from its parts
    parts = sorted((tmp_path / "run/parts").glob("*dm*"))
    assert len(parts) == 6
    run.run(Options(**chosen, run_dir=tmp_path / "run"))
    assert len(pretended.tested) == before[0] and len(pretended.distilled) == before[1] + 1
    parts[0].write_text("{}")
    file.unlink()
    with pytest.raises(UserError, match=r"saved results: expected commit in .*score-dm-hard-linear-dc"):
        run.run(Options(**chosen, run_dir=tmp_path / "run"))


def test_a_budget_that_nothing_meets_is_said_by_every_row(tmp_path, pretended):
    with pytest.raises(UserError, match=r"at least one method that finishes, got none .dm: budget: expected"):
        run.run(Options(**SHORT | {"budget": "bits:8"}, run_dir=tmp_path / "run"))
    lines = json.loads((tmp_path / "run/league.json").read_text())["lines"]
    failed = {line["entry"] for line in lines if "at least scalars:" in line["note"]}
    assert failed == {"dm", "frepo", *rows.BASELINES}


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"methods": ()}, "at least one of methods, got none"),
        ({"methods": ("dmm",)}, "expected one of dc, dd"),
        ({"budget": "ipc"}, "ipc:N, scalars:N or bits:N"),
        ({"budget": "ipc:-1"}, "N above 0"),
        ({"learner": "lineer"}, "lineer"),
        ({"factors": (0.0,)}, "factors > 0"),
        ({"protocol": "as_distilled"}, "expected one of dc"),
        ({"dataset": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, chosen, says):
    with pytest.raises(UserError) as error:
        run.run(Options(**SHORT | chosen, run_dir=tmp_path / "run"))
    assert says in message(error) and not (tmp_path / "run").exists()


def test_every_method_has_the_league_s_network_and_storage():
    league = league_of(methods=tuple(Options.options()["methods"].default), factors=(0.3, 1.0), learner=None)
    assert league.own == "convnet:width=16:depth=2"
    for name in league.options.methods:
        own = entry(league, name)
        assert own.options["learner"] == "convnet" and own.options["width"] == 16
        assert ("budget" in own.options) == (name != "gtn")
        assert own.follows_experts == (name == "mtt")
        assert [c.name for c in own.candidates][:2] == [f"{name}-0.3", f"{name}-1"]
        assert own.candidates[0].change.keys() == {"outer_learning_rate"} and not own.candidates[1].change
        assert own.candidates[0].program == own.candidates[1].program
    by_decoder = entry(league, "idc").candidates[-1]
    assert by_decoder.change == {"decoder": "multiformation"}
    assert by_decoder.program == "idc-decoder-multiformation" == by_decoder.name
    assert "chunk_length" not in own.options
    few = common(league_of(num_expert_epochs=4, chunk_length=2, methods=("mtt",)), "mtt")
    assert few["start_epochs"] == 2  # and 3 more epochs lead to the last of 5 snapshots
    assert few["chunk_length"] == 2


def test_a_candidate_without_room_leaves_the_others(tmp_path):
    league = league_of(methods=("dd",), budget="scalars:640", learner="linear")  # ten images of 64, no labels
    own = entry(league, "dd")
    assert [c.name for c in own.candidates] == ["dd-1", "dd-num_learners-1"]
    ((candidate, why),) = own.left_out
    assert candidate.change["soft_labels"] and "at least scalars:740" in why
    with pytest.raises(UserError, match="at least scalars:640"):
        entry(league_of(methods=("dd",), budget="scalars:100", learner="linear"), "dd")


def test_the_preset_of_mnist_names_candidates_of_every_method():
    preset = Path(run.__file__).parents[1] / "presets/league_mnist.cfg"
    chosen = cli.parsed(Options, "", ["league", f"--flagfile={preset}"])
    digits = prepared(Options(methods=("dm",), learner="linear"))
    facts = Facts((28, 28, 1), 10)
    league = digits._replace(options=filled(chosen, facts), facts=facts)
    named = [entry(league, name) for name in chosen.chosen().get("methods", METHODS)]
    assert {own.method for own in named} == set(METHODS)
    assert next(own for own in named if own.method == "mtt").options["start_epochs"] == 8


def test_candidates_are_scored_on_validation_images(monkeypatch):
    league, seen = league_of(num_search_learners=3), []

    def scored(league, architecture, protocol, images, labels):
        seen.append((league.data.test is league.data.validation, league.options.num_eval_learners))
        return {"mean": 0.5}

    monkeypatch.setattr(scores, "scored", scored)
    scores.on_validation(league, Batch(jnp.zeros((10, 8, 8, 1)), jnp.eye(10)), "probabilities")
    assert seen == [(True, 3)] and league.data.test is not league.data.validation


def test_labels_are_hard_and_soft_where_they_are_not_hard():
    x, soft = np.zeros((2, 8, 8, 1), np.float32), np.asarray([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert list(scores.by_labels(x, np.eye(2), "probabilities")) == ["hard"]
    found = scores.by_labels(x, soft, "probabilities")
    assert found["hard"][0].y.tolist() == [[1, 0], [0, 1]] and found["soft"][1] == "probabilities"
    assert list(scores.by_labels(x, np.eye(2), "free")) == ["hard", "soft"]
    league = league_of()
    losses = {kind: scores.training(league, "dc", 10, kind).loss for kind in ("probabilities", "free")}
    assert losses == {"probabilities": "cross_entropy", "free": "squared"}


def made_up(name, mean, commit, **more):
    environment = {"commit": commit, "jaxdistill": "0.1"}
    tests = [score(mean, *by, labels="hard") for by in (("linear", "dc"), ("mlp", "dc"), ("linear", "dsa"))]
    row = {"entry": name, "kind": "method", "title": name, "environment": environment, "status": "done"}
    row |= {"note": "", "scores": tests, "images_trained_on": 10, "scalars_stored": 640, "seconds": 1.0}
    return row | {"commits": [commit]} | more


def test_mixed_and_changed_checkouts_are_named_and_marked_in_the_table():
    league = league_of(seconds_per_method=0.5)
    given = [made_up("dm", 0.8, "a" * 40), made_up("dd", 0.795, f"{'b' * 40}-dirty")]
    given += [made_up("dc", 0.7, "a" * 40, commits=["a" * 40, "c" * 40], searched_seconds=0.7)]
    found = table.table(given, league)
    mixed, dirty, parts, off = found["cautions"]
    assert mixed.startswith("Rows of mixed versions, commit: aaaaaaaaaaaa: dm; dc; bbbbbbbbbbbb-dirty: dd")
    assert "(†): dd." in dirty and "dc was made in parts, by the commits aaaaaaaaaaaa, cccccccccccc" in parts
    assert "over a tenth more or less than 0.5 s: dc 0.7 s" in off
    assert [line["place"] for line in found["lines"]] == ["best", "tie", ""]
    _, cells = page.wide(found["lines"], league)
    assert [row[0] for row in cells] == ["dm", "dd †", "dc"]
    assert cells[0][2] == "80.0 ± 1.0 ★" and cells[1][2] == "79.5 ± 1.0 ≈"


def test_released_sets_have_digests_and_flags_and_train_in_numpy(tmp_path, monkeypatch):
    league = league_of()
    label = np.asarray(league.data.train.y).argmax(-1)
    means = np.stack([np.asarray(league.data.train.x)[label == c].mean(axis=0) for c in range(10)])
    (tmp_path / "run/cells/dm-1").mkdir(parents=True)
    file = tmp_path / "run/cells/dm-1/synthetic.npz"
    write_synthetic(
        file,
        images=means,
        labels=np.eye(10),
        order=[range(10)],
        hyperparameters={},
        info=league.data.info,
        method="dm",
        learner={},
        inner={},
    )
    more = {"set": "cells/dm-1/synthetic.npz", "flags": ["--dataset=digits", "--method=dm"]}
    more |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "preparation_seconds": 0.0}
    given = [made_up("dm", 0.8, "a" * 40, dataset="digits", budget="ipc:1", **more)]
    result = {"rows": given, **table.table(given, league)}
    out = tmp_path / "sets"
    for _ in range(2):  # the second replaces the first
        sets.release(out, tmp_path / "run", result, league)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "SHA256SUMS", "dm.cfg", "dm.npz"]
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert (out / "dm.cfg").read_text().splitlines()[-2:] == ["--dataset=digits", "--method=dm"]
    readme = (out / "README.md").read_text()
    assert given[0]["sha256"] in readme and table.SAYS in readme
    monkeypatch.chdir(out)
    space: dict = {}
    exec(readme.partition("```python\n")[2].partition("```")[0], space)
    pixels = np.asarray(league.data.test.x) * league.data.info.std + league.data.info.mean
    right = space["classes"](pixels * league.data.info.scale) == np.asarray(league.data.test.y).argmax(-1)
    assert right.mean() > 0.7  # chance is 0.1
    (out / "mine.txt").write_text("")
    with pytest.raises(UserError, match=r"with sets alone, got .*mine.txt"):
        sets.release(out, tmp_path / "run", result, league)
    (out / "mine.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(sets, "MOST_BYTES", 1000)
        with pytest.raises(UserError, match="sets of at most"):
            sets.release(out, tmp_path / "run", result, league)
    file.write_bytes(b"other")
    with pytest.raises(UserError, match=r"the set that was tested in .*synthetic.npz, got another file"):
        sets.release(out, tmp_path / "run", result, league)


@pytest.mark.slow
def test_a_small_league_that_is_stopped_in_a_row_gives_the_same_rows(tmp_path, monkeypatch):
    chosen = Options(
        **SMOKE
        | {
            "methods": ("frepo", "mtt"),
            "learner": "mlp:width=16:depth=1",
            "num_experts": 2,
            "num_expert_epochs": 5,
        }
    )
    whole = run.run(chosen.replace(run_dir=tmp_path / "whole", sets=str(tmp_path / "sets")))
    for row in whole["rows"]:
        assert row["status"] == "done", row["note"]
    for name in ("frepo", "mtt"):  # the flags of a set are those of the run that made it
        given = cli.parsed(distill.Options, "", ["distill", f"--flagfile={tmp_path}/sets/{name}.cfg"])
        made = json.loads((tmp_path / f"whole/cells/{name}-1/config.json").read_text())["config"]
        flags = identity_of(resolve(given.pick(Config), Facts((8, 8, 1), 10)))
        assert flags == {field: value for field, value in made.items() if field != "experts_sha256"}
    (mtt,) = (row for row in whole["rows"] if row["entry"] == "mtt")
    assert mtt["preparation_seconds"] > 0 and mtt["images_trained_on"] == 10
    tested = rows.scored

    def stops(league, architecture, protocol, images, labels):
        if protocol == "dsa" and labels == "free":
            raise KeyboardInterrupt
        return tested(league, architecture, protocol, images, labels)

    for part in (tmp_path / "whole/parts").glob("score-frepo-soft*dsa*"):
        part.unlink()
    (tmp_path / "whole/rows/frepo.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(rows, "scored", stops)
        with pytest.raises(KeyboardInterrupt):
            run.run(chosen.replace(run_dir=tmp_path / "whole"))
    monkeypatch.setattr(rows, "fitting", None)  # what is there is not measured again
    file = tmp_path / "whole/cells/frepo-1/config.json"
    content = json.loads(file.read_text())
    content["environment"]["commit"] = "d" * 40
    file.write_text(json.dumps(content))
    again = run.run(chosen.replace(run_dir=tmp_path / "whole"))
    assert any("frepo was made in parts" in each and "dddddddddddd" in each for each in again["cautions"])
    pairs = zip(whole["lines"], again["lines"], strict=True)
    assert all(a.get(n) == b.get(n) for a, b in pairs for n in ("entry", "mean", "lrs", "sha256"))
