"""What the figure says, as claims that can turn false."""

import math

import pandas as pd
from scipy import stats

from experiments.harness.claims import Claim, at_least, at_most
from experiments.wrong_gradient.measured import NO_PENALTY
from rlkl.penalties import expected_gradient

WAYS = {("bandit", "kl_pi_ref"): 17, ("bandit", "kl_ref_pi"): 8, ("ladder", "kl_pi_ref"): 43, ("ladder", "kl_ref_pi"): 12}
SEEDS = 5
K3, K1 = "k3 in loss", "k1 in loss"
SEMI = expected_gradient.semi({"kl_pi_ref": 1.0}).says
DIFFERENCE = expected_gradient.formula({"kl_pi_ref": 1.0, "kl_ref_pi": -1.0})


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Of each, the worst over the ways that it names: first without sampling noise, then trained."""
    reached = drawn[drawn["series"] == "descended"]
    seeds = of_seeds(drawn)
    exactly, partly, nothing = (reached[reached["kind"] == kind] for kind in ("exact", "semi", "inert"))
    known = reached[(reached["kind"] != "none") & (reached["end"] != "ran away")]
    gain = _of(drawn[drawn["series"] == "reference"], "ladder", "kl_pi_ref")["regret"]
    semi = _of(partly, "ladder", "kl_pi_ref").query("descends == @SEMI")
    differences = reached[reached["descends"] == DIFFERENCE]
    fined = _named(reached, tuple(f"{name} in reward" for name in ("k2", "k3", "abs")))
    token, whole, bandit = (_one(reached, *at) for at in (("ladder", "token"), ("ladder", "sequence"), ("bandit", "sequence")))
    return [
        *(at_least(f"{task}, {name}: ways", len(_of(reached, task, name)), count) for (task, name), count in WAYS.items()),
        at_least("ways that descend the divergence they name", len(exactly), 29),
        at_most("these, without noise: largest regret", _most(exactly["regret"].abs()), 1e-6),
        at_most("these, without noise: total variation to the optimum", _most(exactly["to_own"]), 1e-6),
        at_most("every way whose end is known: total variation to it", _most(known["to_descended"]), 1e-5),
        at_least("k3 in the loss, bandit: total variation to the optimum it names", bandit["to_own"], 0.1),
        at_most("k3 in the loss, bandit: to KL(pi_ref‖pi)'s", bandit["to_descended"], 1e-6),
        at_most("k3 in the loss of a sequence, ladder: to KL(pi_ref‖pi)'s", whole["to_descended"], 1e-6),
        at_most("k3 in the loss of a token, ladder: to the myopic policy of KL(pi_ref‖pi)", token["to_descended"], 1e-6),
        at_least("the same: to KL(pi‖pi_ref)'s optimum", token["to_own"], 0.1),
        at_least("the same: to KL(pi_ref‖pi)'s optimum", _one(reached, "ladder", "token", "kl_ref_pi")["to_own"], 0.1),
        at_least("the same: regret, over all that training can gain", _share(token["regret"], gain), 0.5),
        at_least("semi-gradients of KL(pi‖pi_ref), ladder: ways", len(semi), 5),
        at_least("these: least regret, over all that training can gain", _share(_least(semi["regret"]), gain), 1.0),
        at_most("these: total variation to the myopic policy", _most(semi["to_descended"]), 1e-6),
        at_most("k1 in the loss: total variation to the end of no penalty", _most(_named(nothing, K1)["to_descended"]), 1e-6),
        at_least(f"ways that descend {DIFFERENCE}", len(differences), 2),
        at_most("these: log pi/pi_ref of a sequence (they run away)", _most(differences["least"]), -100.0),
        at_least("these: norm of the gradient there (nothing holds them)", _least(differences["gradient_norm"]), 0.05),
        at_least("k2, k3 and abs in the reward: ways", len(fined), 12),
        at_most("these: log pi/pi_ref of a sequence (all lose some)", _most(fined["least"]), -12.0),
        *_trained(seeds),
    ]


def _trained(seeds: pd.DataFrame) -> list[Claim]:
    """The same of trained seeds."""
    exactly, partly = (seeds[seeds["kind"] == kind] for kind in ("exact", "semi"))
    known = seeds[(seeds["kind"] != "none") & (seeds["end"] != "ran away")]
    semi = _of(partly, "ladder", "kl_pi_ref").query("descends == @SEMI")
    inert = _named(seeds[seeds["kind"] == "inert"], K1)
    unpenalised = seeds[seeds["way"] == NO_PENALTY].set_index("task")["reward"]
    return [
        at_least("trained: seeds of a way", _least(seeds["seeds"]), SEEDS),
        at_most("trained, exact ways: largest upper end of the mean regret's 95% interval", _most(exactly["upper"]), 1e-3),
        at_least("trained, semi-gradients: least lower end of the mean regret's 95% interval", _least(semi["lower"]), 0.15),
        at_most("trained: largest distance of the mean regret from that without noise", _most(seeds["apart"].abs()), 5e-3),
        at_most("trained: largest mean total variation to the end that is known", _most(known["to_descended"]), 0.02),
        at_most(
            "trained, k1 in the loss: mean reward less that of no penalty",
            _most((inert["reward"] - inert["task"].map(unpenalised).astype(float)).abs()), 1e-3,
        ),
    ]  # fmt: skip


def of_seeds(drawn: pd.DataFrame) -> pd.DataFrame:
    """Of each way its trained seeds: mean regret with its 95% interval (Student's t), mean distances and reward; apart: of the
    mean regret from that of the way without noise."""
    key = ["task", "direction", "way"]
    trained = drawn[drawn["series"] == "trained"]
    grouped = trained.groupby(key, sort=False)
    found = grouped[["regret", "to_own", "to_descended", "reward"]].mean()
    found["seeds"] = grouped["regret"].count()
    half = stats.t.ppf(0.975, (found["seeds"] - 1).clip(lower=1)) * grouped["regret"].sem()
    found["lower"], found["upper"] = found["regret"] - half, found["regret"] + half
    found[["kind", "descends"]] = grouped[["kind", "descends"]].first()
    reached = drawn[drawn["series"] == "descended"].set_index(key)
    found["apart"] = found["regret"] - reached["regret"]
    found["end"] = reached["end"]
    return found.reset_index()


def _of(ways: pd.DataFrame, task: str, direction: str) -> pd.DataFrame:
    return ways[(ways["task"] == task) & (ways["direction"] == direction)]


def _named(ways: pd.DataFrame, start: str | tuple[str, ...]) -> pd.DataFrame:
    return ways[ways["way"].str.startswith(start)]


def _one(reached: pd.DataFrame, task: str, level: str, direction: str = "kl_pi_ref") -> pd.Series:
    """k3 in the loss; NaN in every place where it is missing."""
    found = _of(reached, task, direction).query("way == @K3 + ', ' + @level")
    return found.iloc[0] if len(found) else pd.Series(math.nan, reached.columns, dtype=object)


def _share(regret: float, gain: pd.Series) -> float:
    """A regret over the reference's own."""
    return regret / gain.item() if len(gain) == 1 and gain.item() > 0.0 else math.nan


def _most(values: pd.Series) -> float:
    """The largest; NaN where one is missing, or all are."""
    return float(values.max(skipna=False)) if len(values) else math.nan


def _least(values: pd.Series) -> float:
    return -_most(-values)
