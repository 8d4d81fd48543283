"""What to do about each warning, in one line; the docs' page of a warning says more."""

ADVICE = {
    "zero_probability": "score tokens with the settings that they were drawn with, and let no mask or top-p drop drawn tokens",
    "negative_kl": "read log_probs from the policy that drew the tokens, or give sampler_log_probs, so that they are weighted",
    "k1_k3_disagree": "compute log_probs as tokens were drawn: the same weights, temperature and truncation, in float32",
    "heavy_tails": "read more sequences, report k1 beside k3, and look at the tokens that carry the sum",
    "kl_at_start": "score both models by one code path, in one precision, without dropout, with one template and mask",
    "sampler_mismatch": "sync the sampler's weights, match precisions, or weight by pi/mu with a limit on the weights",
    "mismatch_grows": "sync the sampler more often, and look for steps after which the mismatch stays",
    "truncated_sampling": "train without top-p and top-k, or score the policy on the tokens that were kept",
    "raw_log_probs": "let the server report processed log-probabilities, or draw with temperature 1 and no truncation",
    "clamped": "leave the clamp out, or put it on the value and not on the gradient, and log how often it acts",
    "clipped": "take fewer updates or smaller steps on one batch, or widen the range on purpose",
    "zero_std_groups": "choose prompts that are neither always nor never solved, or draw more answers to each",
    "entropy_collapse": "raise the penalty's coefficient, lower the learning rate, or stop earlier",
    "length_bias": "average over all tokens of the batch: token-mean, or a sum over a fixed length",
    "descends_other": "take one of the nearest settings below, or call the penalty by what it descends",
}
