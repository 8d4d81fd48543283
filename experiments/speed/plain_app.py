"""The sweep as one usually writes it: a Hydra application whose job jits its own training, hyperparameters as constants.

`python -m experiments.speed.plain_app -m beta=0.1,0.3 seed=0,1`: the work of `sweeping`, graded against nothing.
"""

import csv
import logging
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

ARMS, BATCH, STEPS, ROWS = 10, 64, 2000, 200


@hydra.main(version_base="1.3", config_path=None, config_name="plain")
def main(config: DictConfig) -> None:
    """Train one run and write its history."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    draw = np.random.default_rng(0)
    log_reference = jnp.asarray(np.log(draw.dirichlet(np.ones(ARMS))), jnp.float32)
    reward = jnp.asarray(draw.normal(size=ARMS), jnp.float32)
    optimizer = optax.adam(config.learning_rate)

    def loss(logits, key):
        log_pi = jax.nn.log_softmax(logits)
        tokens = jax.random.categorical(key, jax.lax.stop_gradient(logits), shape=(BATCH,))
        log_pi = log_pi[tokens]
        returns = reward[tokens] - config.beta * jax.lax.stop_gradient(log_pi - log_reference[tokens])
        return -jnp.mean((returns - returns.mean()) * (BATCH / (BATCH - 1)) * log_pi)

    def step(carry, key):
        logits, slots = carry
        updates, slots = optimizer.update(jax.grad(loss)(logits, key), slots)
        return (optax.apply_updates(logits, updates), slots), None

    @jax.jit
    def train(key):
        def chunk(carry, keys):
            (logits, slots), _ = jax.lax.scan(step, carry, keys)
            log_pi = jax.nn.log_softmax(logits)
            row = jnp.exp(log_pi) @ reward, jnp.exp(log_pi) @ (log_pi - log_reference), -jnp.exp(log_pi) @ log_pi
            return (logits, slots), jnp.stack(row)

        keys = jax.random.split(key, (ROWS, STEPS // ROWS))
        return jax.lax.scan(chunk, (log_reference, optimizer.init(log_reference)), keys)[1]

    folder = Path(HydraConfig.get().runtime.output_dir)
    with open(folder / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["reward", "kl", "entropy"])
        writer.writerows(np.asarray(train(jax.random.key(config.seed))).tolist())
    logging.getLogger(__name__).info("written")


if __name__ == "__main__":
    ConfigStore.instance().store("plain", {"beta": 0.1, "learning_rate": 0.1, "seed": 0})
    sys.exit(main())
