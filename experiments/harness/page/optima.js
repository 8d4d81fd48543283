"use strict";
// A bandit's optima in closed form, in log-probabilities. One argument, {beta, reward, reference, typicality}:
// arms earn reward + typicality * log reference; the objective is E[that] - beta D, in nats.

function logSumExp(values) {
  const most = Math.max(...values);
  return most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0));
}

function normalised(logits) {
  const total = logSumExp(logits);
  return logits.map((logit) => logit - total);
}

function earned({ reward, reference, typicality }) {
  return reward.map((r, i) => r + typicality * Math.log(reference[i]));
}

// Under KL(pi‖pi_ref): pi_ref^(1 + typicality/beta) e^(reward/beta) / Z.
function underReverse(bandit) {
  return normalised(earned(bandit).map((e, i) => Math.log(bandit.reference[i]) + e / bandit.beta));
}

// Under KL(pi_ref‖pi): beta pi_ref / (L - earned). L's offset from the best arm, the one root, lies between beta pi_ref(best) and
// beta, and is sought on a log scale: at small beta it is tiny.
function underForward(bandit) {
  const gains = earned(bandit), best = Math.max(...gains), gaps = gains.map((gain) => best - gain);
  const { beta, reference } = bandit;
  const mass = (offset) => reference.reduce((sum, p, i) => sum + (beta * p) / (offset + gaps[i]), 0);
  let low = Math.log(beta * Math.max(...reference.filter((_, i) => gaps[i] === 0))), high = Math.log(beta);
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2;
    if (mass(Math.exp(middle)) > 1) low = middle; else high = middle;
  }
  const offset = Math.exp((low + high) / 2);
  return normalised(reference.map((p, i) => Math.log((beta * p) / (offset + gaps[i]))));
}

function entropy(logP) {
  return -logP.reduce((sum, u) => sum + Math.exp(u) * u, 0);
}

function kl(logP, logQ) {
  return logP.reduce((sum, u, i) => sum + Math.exp(u) * (u - logQ[i]), 0);
}

// What the explorer shows of each policy.
function policies(bandit) {
  const logReference = bandit.reference.map(Math.log);
  const of = (logPi) => ({
    probability: logPi.map(Math.exp),
    reward: logPi.reduce((sum, u, i) => sum + Math.exp(u) * bandit.reward[i], 0),
    entropy: entropy(logPi),
    kl_pi_ref: kl(logPi, logReference),
    kl_ref_pi: kl(logReference, logPi),
  });
  return { reference: of(logReference), kl_pi_ref: of(underReverse(bandit)), kl_ref_pi: of(underForward(bandit)) };
}
