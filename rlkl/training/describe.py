"""Descriptions of a run in words: its objective, how its penalty enters the loss, and what training descends."""

from rlkl import algorithms, surrogates
from rlkl.divergences import Params
from rlkl.penalties.expected_gradient import ExpectedGradient, against, expected_gradient
from rlkl.penalties.options import divergence
from rlkl.settings import AGGREGATIONS, AlgorithmSettings, PenaltySettings, RolloutSettings, Settings
from rlkl.training import reward_shaping, spec
from rlkl.training.spec import Run

ROUNDED = {"log_probs": "log-probabilities", "logits": "logits", "weights": "parameters"}
PENALISING = {"uniform": "the uniform policy", "start": "the policy at step 0", "policy": "the policy itself"}
CORRECTIONS = {
    "none": "uncorrected",
    "token": "corrected by each token's importance weight",
    "sequence": "corrected by each sequence's importance weight",
    "geometric": "weighted by the geometric mean of each sequence's ratios",
}


def statement(penalty: PenaltySettings, beta: float, reward: str = "E[r]") -> str:
    """The objective as a formula, as in `maximise E[r] - 0.1 KL(pi‖pi_ref)  (reverse KL)`. reward: its first term."""
    div = divergence(penalty)
    if div is None:
        return f"maximise {reward}  (no penalty)"
    name = {"kl_pi_ref": "reverse KL", "kl_ref_pi": "forward KL"}.get(div.name, div.name.replace("_", " "))
    if div.name == "alpha":
        name = f"alpha = {float(penalty.alpha):g}"
    if div.name == "mixed":
        name = "w1, w2 = " + ", ".join(f"{float(weight):g}" for weight in penalty.weights)
    return f"maximise {reward} - {beta:g} {div.formula}  ({name})"


def maximised(settings: Settings) -> str:
    """The first term of what is maximised: E[r], or with objective=utility the utility of the success probability p."""
    if settings.objective == "reward":
        return "E[r]"
    size, k = settings.algorithm.group_size, settings.algorithm.pass_k
    if k is not None:
        return f"E[1 - (1 - p)^{k}]"
    return "E[2 arcsin sqrt p]" if size is None else f"E[U_{size}(p)]"


def estimator(penalty: PenaltySettings) -> str:
    """The name of a penalty's estimator; of top_k with the tokens that it sums over, and what becomes of the others."""
    if penalty.estimator != "top_k":
        return str(penalty.estimator)
    return f"top_k ({penalty.top_k} of the {penalty.top_k_of}, tail {penalty.top_k_tail})"


def entrance(penalty: PenaltySettings) -> str:
    """How a penalty enters a sampled loss, in words: its estimator, and whether it is in the reward or in the loss."""
    if penalty.sampler == "exact":
        return "its exact gradient beside the sampled reward's"
    if penalty.sampler == "reference":
        return f"{penalty.estimator} in the loss, on the reference's own sequences"
    extra = "" if penalty.gradient == "naive" else f", gradient {penalty.gradient}"
    extra += f" of {penalty.gradient_estimator}" if penalty.gradient == "straight_through" else ""
    extra += ", immediate credit" if penalty.credit == "immediate" else ""
    extra += ", future KL added" if penalty.future_kl else ""
    return f"{estimator(penalty)} in the {penalty.placement}, of each {penalty.level}{extra}"


def _limits(penalty: PenaltySettings) -> list[str]:
    """What the limits of importance weights, and the masks by KL, do to the gradient."""
    texts, masked = [], penalty.importance_limit == "mask"
    limits = {
        ("below" if masked else "at least"): penalty.importance_min,
        ("above" if masked else "at most"): penalty.truncation,
    }
    words = [f"{which} {limit:g}" for which, limit in limits.items() if limit is not None]
    if words and masked:
        texts.append(f"masked: importance weights {' or '.join(words)} are 0 (batch_truncated: how often)")
    elif words:
        texts.append(f"truncated: importance weights are {' and '.join(words)} (batch_truncated: how often)")
    if penalty.kl_mask != "none":
        rule = f"{penalty.kl_mask} of KL(sampler‖pi) above {penalty.kl_mask_limit:g} nats"
        texts.append(f"masked: tokens with {rule} have no gradient (batch_truncated: how often)")
    return texts


def _trust_region(algorithm: AlgorithmSettings) -> str:
    """The surrogate with its options, and what its ratio is to."""
    values = ", ".join(f"{key}={getattr(algorithm, key):g}" for key in surrogates.REGISTRY[str(algorithm.surrogate)].options)
    old = "the policy before the step" if algorithm.old_log_probs == "recomputed" else "the sampler"
    return f"surrogate={algorithm.surrogate} with {values}, r = pi/pi_old to {old}"


def descends(run: Run) -> ExpectedGradient:
    """The expected gradient of the run's penalty: which divergence it descends, if any."""
    if run.settings.algorithm.name == "dpo":
        div = divergence(run.settings.penalty)
        assert div is not None
        says = f"the log-loss of the preferences, at its least where E[r] - beta {div.formula} is best"
        return ExpectedGradient("exact", says)
    scaled = spec.gradient_kind(run.settings) == "scaled"
    gradient = expected_gradient(run.settings.penalty, run.task.automaton.horizon, scaled)
    return against(run.settings.reference.penalising, gradient)


def _dropping(penalty: PenaltySettings) -> list[str]:
    """What direct preference optimisation makes of a divergence whose optimum may drop outcomes."""
    div = divergence(penalty)
    if div is None or not div.may_drop_outcomes(Params(penalty.alpha, penalty.weights)):
        return []
    return [f"dropped: f'(0) of {div.formula} is finite; where its optimum drops outcomes, the least log-loss is elsewhere"]


def sampler(rollout: RolloutSettings) -> str:
    """What samples, where it is not the policy that is trained, and which log-probabilities it reports."""
    rules = {name: getattr(rollout, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    parts = [f"{rollout.staleness} batches old"] if rollout.staleness else []
    parts += [f"with {ROUNDED[rollout.rounded]} rounded to {rollout.dtype}"] if rollout.dtype else []
    parts += [f"{name} {value:g}" for name, value in rules.items() if value is not None]
    parts += [f"without the update's dropout of {rollout.dropout:g}"] if rollout.dropout else []
    reports = f", which reports its {rollout.reported} log-probabilities" if rollout.reported else ""
    return f"samples of a policy {', '.join(parts)}{reports}"


def caveats(run: Run) -> list[str]:
    """Everything else that makes training differ from descending the objective, as one text each."""
    settings, shaping, texts = run.settings, run.settings.reward_shaping, []
    samples = algorithms.gradient_kind(settings.algorithm.name) != "exact"
    if settings.rollout.off_policy:
        corrected = CORRECTIONS[settings.penalty.importance_correction]
        corrected = "weighted by the surrogate's ratio" if settings.algorithm.old_log_probs == "reported" else corrected
        texts.append(f"off-policy: {sampler(settings.rollout)}, {corrected}")
    in_loss = settings.penalty.divergence != "none" and settings.penalty.placement == "loss"
    if settings.algorithm.scale_advantages == "group" and settings.objective == "reward" and in_loss:
        what = (
            "of rewards of two values this maximises a utility (objective=utility), which the penalty in the loss stands beside"
        )
        texts.append(f"standardised: returns are divided by their group's standard deviation; {what}")
    if settings.objective == "utility" and settings.algorithm.pass_k is None:
        texts.append(
            "utility: of the success probability p, as advantages divided by their group's standard deviation maximise it"
        )
    if settings.algorithm.pass_k is not None:
        graded = "" if settings.objective == "utility" else "; objective=utility grades by it"
        texts.append(f"pass@k: advantages maximise pass@{settings.algorithm.pass_k} in place of the success rate{graded}")
    if settings.algorithm.zero_std != "keep":
        how = {"drop": "left out of the batch", "resample": "drawn again"}[settings.algorithm.zero_std]
        texts.append(
            f"filtered: groups of equal rewards are {how}, so that prompts and penalty count by the groups that are left"
        )
    texts += _limits(settings.penalty)
    if settings.algorithm.surrogate != "none":
        texts.append(f"trust region: {_trust_region(settings.algorithm)} (batch_touched: how often)")
    elif settings.algorithm.epochs > 1:
        texts.append(
            f"off-policy: {settings.algorithm.epochs} updates on each batch, without a ratio to the policy before them"
        )
    if settings.penalty.clamp is not None:
        texts.append(f"clamped: log-ratios are read within ±{settings.penalty.clamp:g} (batch_clamped: how often)")
    weighed = samples and settings.algorithm.loss_aggregation != AGGREGATIONS[0]
    if weighed and run.task.automaton.lengths_vary:
        texts.append(f"weighed: {settings.algorithm.loss_aggregation} weighs sequences by their lengths, which differ here")
    if settings.algorithm.entropy_coef is not None:
        entropy = "of each next token, the states held fixed" if samples else "of the policy"
        texts.append(
            f"bonus: {settings.algorithm.entropy_coef:g} times the entropy {entropy}; no objective or regret counts it"
        )
    if settings.algorithm.name == "natural" and settings.optimizer.name != "sgd":
        texts.append(
            f"rescaled: {settings.optimizer.name} changes the natural gradient's steps; optimizer=sgd takes them as they are"
        )
    if settings.algorithm.name == "dpo":
        texts.append("offline: learns from the preferences alone, never from the reward fitted to them, which grades it")
        texts += _dropping(settings.penalty)
        if settings.algorithm.max_log_odds is not None:
            texts.append(f"clipped: a pair whose log-odds are beyond ±{settings.algorithm.max_log_odds:g} has no gradient")
    if shaping.name == "mara":
        rule = f"mara, variant {shaping.variant}, makes rewards from {shaping.threshold:g} on equally likely"
        anchor = "; its anchor is each batch's likeliest" if reward_shaping.by_batch(shaping, run.task) else ""
        texts.append(f"shaped: {rule}{anchor}; no objective or regret counts it")
    if shaping.name == "smoothing":
        rule = f"{shaping.weight:g} log pi is taken off the reward of successes, and held fixed in the gradient"
        texts.append(f"shaped: {rule}; no objective or regret counts it")
    if shaping.name == "unlikeliness":
        rule = f"successes lose {shaping.weight:g} times the share of their group's samples that are less likely"
        texts.append(f"shaped: {rule}; no objective or regret counts it")
    if shaping.name == "typicality":
        texts.append(f"shaped: {shaping.weight:g} log pi_ref is taken off the reward; no objective or regret counts it")
    if settings.reference.temperature is not None:
        power = f"pi_ref^(1/{settings.reference.temperature:g}), token by token,"
        texts.append(f"tempered: {power} penalises; objective and regret are against pi_ref")
    if settings.reference.penalising != "graded":
        texts.append(f"penalised against {PENALISING[settings.reference.penalising]}: objective and regret are against pi_ref")
    if settings.stop_kl is not None:
        texts.append(f"stops at the first logged row whose KL(pi‖pi_ref) is above {settings.stop_kl:g}")
    return texts
