"""The page: its sayings rest on claims, its explorer finds the oracle's optima, its numbers are its files', it asks no network.

The browser's tests need a Chromium on the PATH, the mathematics' a node; without, they are skipped and say so.
"""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

import experiments
from experiments.harness import build, page, provenance
from experiments.harness.claims import claim_record
from experiments.harness.page import evidence, render
from rlkl.divergences import REGISTRY
from rlkl.exact import Objective, optimal_policy
from rlkl.policies import Fixed
from rlkl.tasks import Task
from rlkl.tasks.bandits import bandit
from tests.experiments import browser, house
from tests.helpers import PARAMS

COMMITTED = [name for name in build.names() if (build.HERE / name / "figure.csv").is_file()]
PAGED = ("asymmetry", "mode_seeking", "tails")
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
ASSETS = Path(page.__file__).parent


# Sayings


def test_every_saying_is_whole():
    said = evidence.sayings([])
    assert len(said) == len({each.saying for each in said}) >= 10
    assert {each.verdict for each in said} == set(evidence.VERDICTS)
    assert {each.experiment for each in said} <= set(build.names())
    assert all(each.because.endswith(".") and len(each.because) < 160 for each in said)


@pytest.mark.parametrize("name", COMMITTED)
def test_sayings_rest_on_claims_that_hold(name):
    table = pd.read_csv(build.HERE / name / "figure.csv")
    claims = [claim_record(claim) for claim in build.module(name).claims(table)]
    shown = evidence.Shown(name, evidence.describe(name), claims, {"quick": False}, "", "", [])
    for each in evidence.sayings([shown]):
        if each.experiment == name:
            assert each.complaints == [] and each.claims


def test_a_saying_without_its_claim_is_complained_of(tmp_path, monkeypatch):
    given = "- {saying: KL is a distance, verdict: 'false', because: It is not., experiment: coin, claims: [slope, height]}\n"
    monkeypatch.setattr(evidence, "SAYINGS", tmp_path / "sayings.yaml")
    (tmp_path / "sayings.yaml").write_text(given)
    about = evidence.About("The coin", "how heads grow", [], [])
    claims = [{"claim": "slope of heads", "value": 2.1, "bound": "<= 2", "verdict": False}]
    for shown, complaints in (
        ([], ["which does not exist"]),
        ([evidence.Shown("coin", about, [], {}, "", "", ["coin: is not built"])], ["which is not built"]),
        ([evidence.Shown("coin", about, claims, {"quick": True}, "", "", [])], ["which is reduced"]),
        (
            [evidence.Shown("coin", about, claims, {"quick": False}, "", "", [])],
            ["which has no claim that starts with “height”", "where this is false: slope of heads"],
        ),
    ):
        (said,) = evidence.sayings(shown)
        assert said.complaints == complaints
    (tmp_path / "sayings.yaml").write_text(given.replace("'false'", "maybe"))
    with pytest.raises(ValueError, match="maybe"):
        evidence.sayings([])


# The page as a file


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """A page of some committed numbers and of an experiment made here, all of it real but the training."""
    tmp = tmp_path_factory.mktemp("page")
    house.add(tmp, "made_coin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp)])
        patch.setattr(build, "names", lambda: [*PAGED, "made_coin"])
        for name in PAGED:
            (tmp / name).symlink_to(build.HERE / name)
        for module in (build, provenance):
            patch.setattr(module, "HERE", tmp)
        patch.setattr(evidence, "SAYINGS", tmp / "sayings.yaml")
        said = [each for each in (ASSETS / "sayings.yaml").read_text().split("\n- ")[1:] if named(each) in PAGED]
        (tmp / "sayings.yaml").write_text("".join(f"- {each}\n" for each in said))
        out = tmp / "paper"
        for name in PAGED:
            (out / name).mkdir(parents=True)
            shutil.copyfile(build.HERE / name / "figure.csv", out / name / "figure.csv")
            build.finish(name, out / name)
            build.write_manifest(out / name, provenance.manifest(name, build.sweeps(name), False, out / name))
        build.build("made_coin", tmp / "runs", out / "made_coin")
        assert page.write(out) == []
    return out


def named(saying: str) -> str:
    return re.search(r"experiment: (\w+)", saying)[1]


class Reader(HTMLParser):
    """Identifiers, links and what an element would load."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loads = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            elif key in ("href", "xlink:href"):
                self.links.append(value)
            elif key in ("src", "srcset", "data", "action"):
                self.loads.append(value)
        if tag in ("link", "iframe", "object", "img", "base"):
            self.loads.append(tag)


def test_the_page_loads_nothing_and_its_links_lead_somewhere(paper):
    text = (paper / "index.html").read_text()
    found = Reader(text)
    assert found.loads == [] and "@import" not in text and "fetch(" not in text
    assert len(found.ids) == len(set(found.ids))
    for link in found.links:
        if link.startswith("#"):
            assert link[1:] in found.ids
        elif not link.startswith("https://arxiv.org/abs/"):
            assert (paper / link).is_file(), link


def test_the_page_says_that_all_holds_and_shows_every_claim(paper):
    text = (paper / "index.html").read_text()
    count = sum(len(json.loads(path.read_text())) for path in paper.glob("*/claims.json"))
    assert f"All {count} claims of {len(PAGED) + 1} experiments hold." in text
    for path in paper.glob("*/claims.json"):
        for claim in json.loads(path.read_text()):
            assert escape(claim["claim"]) in text and f'data-value="{claim["value"]!r}"' in text


def test_text_is_escaped(paper):
    text = (paper / "index.html").read_text()
    assert "slope of y &amp; x" in text and "slope of y & x" not in text
    assert "“reverse”" in text and "</said>" not in text
    assert '<a href="https://arxiv.org/abs/2501.00001">2501.00001</a>' in text


def test_the_page_is_the_same_a_second_time(paper):
    shown = [evidence.gather("demo", paper / "nowhere")]
    assert render.page(shown, [], ["no"]) == render.page(shown, [], ["no"])


# The explorer against the oracle


def settings(count: int = 40) -> list[dict]:
    """What the sliders can be moved to: (log10 beta, rewards, masses of two arms, typicality), corners first."""
    corners = [
        (-2, 2, -1, 0.98, 0.01, 2), (-2, -1, 2, 0.98, 0.01, 0), (-2, -1, 2, 0.01, 0.01, 2), (1, 2, 2, 0.5, 0.49, 0),
        (-2, 0, 0, 0.3, 0.3, 0), (-1, 0, 0, 0.34, 0.33, 1), (-2, 1, 1, 0.01, 0.98, 0), (0, 0.75, 1, 0.5, 0.1, 0.57),
    ]  # fmt: skip
    draw = np.random.default_rng(7)
    for _ in range(count - len(corners)):
        first = draw.uniform(0.01, 0.98)
        chosen = (
            draw.uniform(-2, 1),
            *draw.uniform(-1, 2, size=2),
            first,
            draw.uniform(0.01, 0.99 - first),
            draw.uniform(0, 2),
        )
        corners.append(
            tuple(
                float(np.clip(round(value, 2), low, None))
                for value, low in zip(chosen, (-2, -1, -1, 0.01, 0.01, 0), strict=True)
            )
        )
    names = ("beta", "reward1", "reward2", "mass1", "mass2", "typicality")
    return [dict(zip(names, map(float, each), strict=True)) for each in corners if each[3] + each[4] <= 0.99 + 1e-9]


@jax.jit
def best(log_ref, reward, typicality, beta):
    """log pi* under both directions, from `optimal_policy.solve` on a bandit with a typicality reward."""
    even = bandit(np.zeros(3), np.full(3, 1 / 3))
    task = Task(even.automaton, jnp.append(jnp.zeros(1), reward), log_ref[None], typicality, jnp.asarray(even.coordinates))
    of = lambda name: optimal_policy.solve(Objective(task, Fixed(log_ref[None], 1), REGISTRY[name], PARAMS, beta)).log_pi[0, 0]  # noqa: E731
    return [of(name) for name in DIRECTIONS]


def expected(at: dict) -> dict[str, list[float]]:
    """Of reference and both optima: the three probabilities, E[r], entropy, both KLs."""
    p = np.array([at["mass1"], at["mass2"], 1.0 - at["mass1"] - at["mass2"]])
    reward = np.array([at["reward1"], at["reward2"], 0.0])
    log_ref = np.log(p)
    solved = best(jnp.asarray(log_ref), jnp.asarray(reward), jnp.asarray(at["typicality"]), jnp.asarray(10.0 ** at["beta"]))
    return {
        who: [*np.exp(u), np.exp(u) @ reward, -np.exp(u) @ u, np.exp(u) @ (u - log_ref), p @ (log_ref - u)]
        for who, u in zip(("reference", *DIRECTIONS), (log_ref, *map(np.asarray, solved)), strict=True)
    }


def close(found: list[float], wanted: list[float]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_explorers_closed_forms_are_the_oracles_in_node():
    if shutil.which("node") is None:
        pytest.skip("no node here: the explorer's mathematics was not checked without a browser")
    given = [
        {
            "beta": 10.0 ** at["beta"],
            "reward": [at["reward1"], at["reward2"], 0.0],
            "reference": [at["mass1"], at["mass2"], 1.0 - at["mass1"] - at["mass2"]],
            "typicality": at["typicality"],
        }
        for at in settings()
    ]
    code = f"{(ASSETS / 'optima.js').read_text()}\nconsole.log(JSON.stringify({json.dumps(given)}.map(policies)))"
    ran = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True, timeout=60)
    for at, found in zip(settings(), json.loads(ran.stdout), strict=True):
        for who, wanted in expected(at).items():
            policy = found[who]
            close([*policy["probability"], *(policy[key] for key in ("reward", "entropy", *DIRECTIONS))], wanted)


# The page in a browser


@pytest.fixture(scope="module")
def opened(paper):
    path = browser.find()
    if path is None:
        pytest.skip("no browser here (chromium or google-chrome on the PATH): the page was not opened")
    tab = browser.Browser(path)
    tab.shape(1280, 900)
    tab.open(paper / "index.html")
    yield tab
    tab.close()


MOVE = """(at => {
  for (const [name, value] of Object.entries(at)) document.querySelector(`.sliders [name=${name}]`).value = value;
  document.querySelector(".sliders [name=mass1]").dispatchEvent(new Event("input", { bubbles: true }));
  return [...document.querySelectorAll("#explored tbody tr")].map((row) =>
    [row.dataset.policy, [...row.querySelectorAll("[data-value]")].map((cell) => Number(cell.dataset.value))]);
})(%s)"""


def test_the_explorer_shows_the_oracles_optima_as_sliders_move(opened):
    for at in settings():
        shown = dict(opened.run(MOVE % json.dumps(at)))
        for who, wanted in expected(at).items():
            close(shown[who], wanted)


def test_a_mass_that_grows_makes_the_other_give_way(opened):
    opened.run(MOVE % json.dumps({"mass1": 0.3, "mass2": 0.6}))
    opened.run(MOVE % json.dumps({"mass1": 0.8}))
    masses = opened.run("['mass1', 'mass2'].map((name) => Number(document.querySelector(`.sliders [name=${name}]`).value))")
    assert masses == [0.8, 0.19]


def test_the_explorer_draws_what_it_computes(opened):
    """Bars' heights are in the ratio of probabilities, and the dots stand on their curves."""
    at = {"beta": -0.5, "reward1": 0.5, "reward2": 1.0, "mass1": 0.4, "mass2": 0.2, "typicality": 0.0}
    opened.run(MOVE % json.dumps(at))
    heights = opened.run(
        "[...document.querySelectorAll('#panels svg:first-child rect')].map((bar) => Number(bar.getAttribute('height')))"
    )
    probability = np.array([expected(at)[who][:3] for who in ("reference", *DIRECTIONS)])
    np.testing.assert_allclose(heights, probability.T.ravel() * heights[0] / 0.4, rtol=1e-6)
    for panel in (2, 3):
        dot, points = opened.run(f"""(() => {{ const panel = document.querySelector('#panels svg:nth-child({panel})');
          const dot = panel.querySelector('circle'), curve = panel.querySelector('polyline.kl_pi_ref');
          return [['cx', 'cy'].map((key) => Number(dot.getAttribute(key))), curve.getAttribute('points')]; }})()""")
        curve = np.array([point.split(",") for point in points.split()], float)
        assert abs(np.interp(dot[0], *curve.T) - dot[1]) < 0.5


def test_every_number_of_a_figure_is_its_files_and_sorts(opened, paper):
    for path in paper.glob("*/figure.csv"):
        name = path.parent.name
        opened.run(f"document.querySelector('[data-csv={name}-csv]').open = true")
        read = f"""new Promise((done) => setTimeout(() => done(
          [...document.querySelectorAll('[data-csv={name}-csv] tr')].map((row) =>
            [...row.cells].map((cell) => cell.dataset.value ?? cell.textContent))), 200))"""
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        assert opened.run(read) == rows
        if name == "made_coin":
            click = f"document.querySelector('[data-csv={name}-csv] th:nth-child(2)').click()"
            opened.run(click)
            assert opened.run(read) == [rows[0], *sorted(rows[1:], key=lambda row: float(row[1]))]
            opened.run(click)
            assert opened.run(read)[1:] == sorted(rows[1:], key=lambda row: -float(row[1]))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_the_page_fits_its_window_in_light_and_dark(opened, width, dark):
    opened.shape(width, 740, dark)
    opened.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert opened.run("document.documentElement.scrollWidth") <= width
    ground = opened.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 23, 26)" if dark else "rgb(255, 255, 255)")
    wide = """[...document.querySelectorAll('main *')].filter((each) => !each.closest('.wide, svg')
      && each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML.slice(0, 80))"""
    assert opened.run(wide) == []


def test_the_page_has_no_error_and_asks_nothing_of_a_network(opened):
    assert opened.seen("Runtime.exceptionThrown") == [] and opened.seen("Log.entryAdded") == []
    asked = [event["request"]["url"] for event in opened.seen("Network.requestWillBeSent")]
    assert len(asked) == 1 and asked[0].startswith("file://")
