"""Likelihood: maximum likelihood minimises KL(data‖model), and KL says how many tokens tell a tuned policy from its reference.

Sources: Cover and Thomas, "Elements of Information Theory" (2006), chapter 11; Wald 1945, "Sequential tests of statistical
hypotheses".
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import Row, points
from rlkl import divergences, exact, tasks
from rlkl.divergences import Params
from rlkl.exact import optimal_policy
from rlkl.policies import Fixed
from rlkl.reports import plots
from rlkl.rollouts import sampling, scoring
from rlkl.settings import numerics

ARMS, STEPS, RATE = 20, 200, 1.0
BETA = 0.3
DELTAS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TESTS, LONGEST = 2_000, 64  # sequential tests, and the sentences that each may read
PATHS = 30


def table(runs: None) -> pd.DataFrame:
    """Every number that is drawn or claimed; nats."""
    with numerics.pinned():
        return series.frame([*_descent(), *_tests()])


def _kl(log_p, log_q):
    return divergences.exact(divergences.REGISTRY["kl_pi_ref"], Params(), log_p, log_q)


def _descent() -> list[Row]:
    """Gradient descent on cross-entropy: KL(data‖model) falls beside it; at every step both gradients."""
    draw = np.random.default_rng(0)
    data = jnp.asarray(draw.dirichlet(np.ones(ARMS)))
    model = lambda logits: jax.nn.log_softmax(logits)  # noqa: E731
    cross_entropy = lambda logits: -jnp.sum(data * model(logits))  # noqa: E731
    kl = lambda logits: _kl(jnp.log(data), model(logits))  # noqa: E731

    def step(logits, _):
        gradient = jax.grad(cross_entropy)(logits)
        apart = jnp.max(jnp.abs(gradient - jax.grad(kl)(logits)))
        return logits - RATE * gradient, (cross_entropy(logits), kl(logits), apart)

    _, seen = jax.jit(lambda start: jax.lax.scan(step, start, None, STEPS))(jnp.asarray(draw.normal(scale=2.0, size=ARMS)))
    named = zip(("cross-entropy", "KL(data‖model)", "gradients apart"), seen, strict=True)
    rows = [row for name, y in named for row in points("descent", name, range(STEPS), y)]
    return [*rows, *points("descent", "entropy of the data", [0], [-jnp.sum(data * jnp.log(data))])]


def _tests() -> list[Row]:
    """Sentences of a tuned policy (the optimum at BETA), and of its reference, read until their log-likelihood ratio passes
    log(1/delta): tokens read, on average. A ratio of the reference's own sentences passes by chance."""
    task = tasks.build("sequence/grammar").task
    automaton, reference = task.automaton, Fixed(jnp.asarray(task.log_reference), task.automaton.horizon)
    objective = exact.Objective(task, reference, divergences.REGISTRY["kl_pi_ref"], beta=jnp.asarray(BETA))
    best = optimal_policy.solve(objective)
    assert best.log_pi is not None
    policy = Fixed(best.log_pi, automaton.horizon)
    values = exact.values(objective, best.log_pi)
    kl, length = float(values.kl_pi_ref), float(values.length)
    rows = points("sentence", "KL(pi‖pi_ref)", [0], [kl]) + points("sentence", "tokens", [0], [length])
    read = {}
    for number, (name, by) in enumerate((("policy", policy), ("reference", reference))):
        batch = sampling.sample(jax.random.key(number), automaton, by, TESTS * LONGEST)
        gain = scoring.log_probability(policy, batch) - scoring.log_probability(reference, batch)
        read[name] = [np.asarray(x, float).reshape(TESTS, LONGEST).cumsum(1) for x in (gain, batch.mask.sum(1))]
    ratio, tokens = read["policy"]
    for path in range(PATHS):
        rows += points("paths", f"path {path}", tokens[path], ratio[path])
    last = ratio[:, -1]
    rows += points("drift", "nats a sentence", [LONGEST], [last.mean() / LONGEST], last.std(ddof=1) / LONGEST / np.sqrt(TESTS))
    for delta in DELTAS:
        over = ratio >= np.log(1.0 / delta)
        first = over.argmax(1)
        spent = tokens[np.arange(TESTS), first]
        rows += points("tests", "not decided", [delta], [1.0 - over.any(1).mean()])
        rows += points("tests", "tokens read", [delta], [spent.mean()], spent.std(ddof=1) / np.sqrt(TESTS))
        rows += points("tests", "log(1/delta)/KL", [delta], [np.log(1.0 / delta) / kl * length])
        passed = (read["reference"][0] >= np.log(1.0 / delta)).any(1).mean()
        rows += points("tests", "false alarms", [delta], [passed], np.sqrt(delta * (1.0 - delta) / TESTS))
    return rows


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    of = lambda panel, name: series.of(drawn, panel, name)  # noqa: E731
    loss, kl = (of("descent", name)["y"].to_numpy() for name in ("cross-entropy", "KL(data‖model)"))
    read, law, alarms = (of("tests", name) for name in ("tokens read", "log(1/delta)/KL", "false alarms"))
    drift, true = of("drift", "nats a sentence"), series.value(drawn, "sentence", "KL(pi‖pi_ref)")
    ratio = read["y"].to_numpy() / law["y"].to_numpy()
    late = abs(float(drift["y"].iloc[0]) - true) / float(drift["error"].iloc[0]) if len(drift) else float("nan")
    return [
        at_most("gradients of cross-entropy and of KL(data‖model): largest difference",
                series.largest(of("descent", "gradients apart")["y"]), 1e-12),
        near("cross-entropy less KL(data‖model) less the data's entropy, at every step",
             series.largest(np.abs(loss - kl - series.value(drawn, "descent", "entropy of the data"))), 0.0, 1e-12),
        at_most("minimising cross-entropy *maximises* KL is false: the largest rise of KL in a step",
                series.largest(np.diff(kl)), 0.0),
        at_most("KL(data‖model) at the end over at the start", kl[-1] / kl[0] if len(kl) else float("nan"), 0.01),
        at_most("log-likelihood ratio: drift less KL(pi‖pi_ref), in standard errors", late, 4.0),
        at_most("sequential tests that were not decided", series.largest(of("tests", "not decided")["y"]), 0.0),
        at_least("tokens read over log(1/delta)/KL, which Wald's identity makes at least 1",
                 series.smallest(ratio + 4.0 * read["error"].to_numpy() / law["y"].to_numpy()), 1.0),
        at_most("the same at delta = 1e-6", ratio[-1] if len(ratio) else float("nan"), 1.1),
        at_most("false alarms above delta, in standard errors: the largest",
                series.largest((alarms["y"] - alarms["x"]) / alarms["error"]), 4.0),
    ]  # fmt: skip


def draw(drawn: pd.DataFrame) -> Figure:
    """Cross-entropy and KL as one descends; log-likelihood ratios by tokens read; tokens that a sequential test reads."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.5))
        descent, paths, tests = figure.subplots(1, 3)
        for name, colour in (("cross-entropy", plots.BLACK), ("KL(data‖model)", plots.BLUE)):
            found = series.of(drawn, "descent", name)
            descent.plot(found["x"] + 1, found["y"], color=colour, label=name)
        descent.axhline(
            series.value(drawn, "descent", "entropy of the data"), color=plots.GREY, ls="--", label="entropy of the data"
        )
        descent.set(xscale="log", xlabel="steps down the cross-entropy", ylabel="nats", title="maximum likelihood")
        descent.legend(loc="upper right", fontsize=6)
        for path in range(PATHS):
            found = series.of(drawn, "paths", f"path {path}")
            paths.plot([0, *found["x"]], [0, *found["y"]], color=plots.SKY, lw=0.5, alpha=0.7)
        rate = series.value(drawn, "sentence", "KL(pi‖pi_ref)") / series.value(drawn, "sentence", "tokens")
        paths.plot([0, 400], [0, 400 * rate], color=plots.BLACK, label="KL a token")
        paths.set(xlabel="tokens read", ylabel="log-likelihood ratio, nats", title="drift", xlim=(0, 400), ylim=(-5, 100))
        paths.legend(loc="upper left")
        read, law = series.of(drawn, "tests", "tokens read"), series.of(drawn, "tests", "log(1/delta)/KL")
        tests.plot(law["x"], law["y"], color=plots.BLACK, label="log(1/delta)/KL")
        tests.errorbar(read["x"], read["y"], 2.0 * read["error"], fmt="o", color=plots.BLUE, label="read, on average")
        tests.set(xscale="log", xlabel="delta", ylabel="tokens", title="to tell policy from reference", ylim=(0, None))
        tests.legend(loc="upper right")
        return figure
