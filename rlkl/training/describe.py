"""A run in words: its objective, how its penalty enters, and what that descends."""

from rlkl import algorithms, settings
from rlkl.penalties.expected_gradient import ExpectedGradient, expected_gradient
from rlkl.penalties.options import divergence
from rlkl.training import reward_shaping
from rlkl.training.spec import Run


def statement(penalty: settings.PenaltySettings, beta: float) -> str:
    """The objective in full, as in `maximise E[r] - 0.1 KL(pi‖pi_ref)  (reverse KL)`."""
    div = divergence(penalty)
    if div is None:
        return "maximise E[r]  (no penalty)"
    name = {"kl_pi_ref": "reverse KL", "kl_ref_pi": "forward KL"}.get(div.name, div.name.replace("_", " "))
    if div.name == "alpha":
        name = f"alpha = {float(penalty.alpha):g}"
    if div.name == "mixed":
        name = "w1, w2 = " + ", ".join(f"{float(weight):g}" for weight in penalty.weights)
    return f"maximise E[r] - {beta:g} {div.formula}  ({name})"


def entrance(penalty: settings.PenaltySettings) -> str:
    """How a sampled penalty enters, in words."""
    if penalty.sampler == "exact":
        return "its exact gradient beside the sampled reward's"
    if penalty.sampler == "reference":
        return f"{penalty.estimator} in the loss, on the reference's own sequences"
    extra = "" if penalty.gradient == "naive" else f", gradient {penalty.gradient}"
    extra += f" of {penalty.gradient_estimator}" if penalty.gradient == "straight_through" else ""
    extra += ", immediate credit" if penalty.credit == "immediate" else ""
    extra += ", future KL added" if penalty.future_kl else ""
    return f"{penalty.estimator} in the {penalty.placement}, of each {penalty.level}{extra}"


def descends(run: Run) -> ExpectedGradient:
    """What the run's penalty descends in expectation."""
    if run.settings.algorithm.name == "dpo":
        return ExpectedGradient(
            "exact", "the log-loss of the preferences, at its least where E[r] - beta KL(pi‖pi_ref) is best"
        )
    scaled = algorithms.gradient_kind(run.settings.algorithm.name) == "scaled"
    return expected_gradient(run.settings.penalty, run.task.automaton.horizon, scaled)


def caveats(run: Run) -> list[str]:
    """What else keeps a sampled step from descending what its penalty does, in words."""
    chosen, found = run.settings, []
    samples, given = algorithms.gradient_kind(chosen.algorithm.name) != "exact", chosen.reward_shaping
    if chosen.rollout.staleness or chosen.rollout.log_prob_dtype:
        stale = f"{chosen.rollout.staleness} batches old" if chosen.rollout.staleness else ""
        rounded = f"rounded to {chosen.rollout.log_prob_dtype}" if chosen.rollout.log_prob_dtype else ""
        by = chosen.penalty.importance_correction
        corrected = "uncorrected" if by == "none" else f"corrected by each {by}'s importance weight"
        found.append(f"off-policy: samples of a policy {' and '.join(filter(None, (stale, rounded)))}, {corrected}")
    if chosen.penalty.truncation is not None:
        found.append(f"truncated: importance weights are at most {chosen.penalty.truncation:g} (batch_truncated: how often)")
    if chosen.penalty.clamp is not None:
        found.append(f"clamped: log-ratios are read within ±{chosen.penalty.clamp:g} (batch_clamped: how often)")
    normalised = samples and chosen.algorithm.loss_aggregation != settings.AGGREGATIONS[0]
    if normalised and run.task.automaton.lengths_vary:
        found.append(f"weighed: {chosen.algorithm.loss_aggregation} weighs sequences by their lengths, which differ here")
    if chosen.algorithm.entropy_coef is not None:
        how = "of each next token, the states held fixed" if samples else "of the policy"
        found.append(f"bonus: {chosen.algorithm.entropy_coef:g} times the entropy {how}; no objective or regret counts it")
    if chosen.algorithm.name == "natural" and chosen.optimizer.name != "sgd":
        found.append(
            f"rescaled: {chosen.optimizer.name} changes the natural gradient's steps; optimizer=sgd takes them as they are"
        )
    if chosen.algorithm.name == "dpo":
        found.append("offline: learns from the preferences alone, never from the reward fitted to them, which grades it")
    if given.name == "mara":
        rule = f"mara, variant {given.variant}, makes rewards from {given.threshold:g} on equally likely"
        anchor = "; its anchor is each batch's likeliest" if reward_shaping.by_batch(given, run.task) else ""
        found.append(f"shaped: {rule}{anchor}; no objective or regret counts it")
    if given.name == "typicality":
        found.append(f"shaped: {given.weight:g} log pi_ref is taken off the reward; no objective or regret counts it")
    if chosen.reference.temperature is not None:
        power = f"pi_ref^(1/{chosen.reference.temperature:g}), token by token,"
        found.append(f"tempered: {power} penalises; objective and regret are against pi_ref")
    if chosen.stop_kl is not None:
        found.append(f"stops at the first logged row whose KL(pi‖pi_ref) is above {chosen.stop_kl:g}")
    return found
