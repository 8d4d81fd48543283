"""Rows of TRL: whole trainers as black boxes (`rlkl.diagnostics.check.trl_trainers`), of whichever release is installed."""

from importlib import metadata
from typing import Any, NamedTuple

LIBRARY = "TRL"
VERSION = metadata.version("trl")
SOURCE = f"trl {VERSION} from the package index, beside transformers {metadata.version('transformers')}"


class TrainerRow(NamedTuple):
    """A setting of a trainer: its name, its options, what TRL says of the penalty, its beta.

    is_second_update: read the second update on the same batch, without rewards; its sampler is the policy before the first.
    """

    setting: str
    trainer: str
    options: dict[str, Any]
    says: str = ""
    is_second_update: bool = False
    beta: float = 0.25


UNSCALED: dict[str, Any] = {"scale_rewards": "none"}
UNCORRECTED: dict[str, Any] = {"use_bias_correction_kl": False}
SEQUENCE: dict[str, Any] = {"importance_sampling_level": "sequence"}
UNBIASED = "unbiased gradient of the reverse KL"
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo")

ROWS = (
    # A penalty beside a reward.
    TrainerRow("GRPO", "GRPOTrainer", {}, UNBIASED),
    TrainerRow("GRPO use_bias_correction_kl=False", "GRPOTrainer", UNCORRECTED),
    TrainerRow("GRPO scale_rewards=batch", "GRPOTrainer", {"scale_rewards": "batch"}, UNBIASED),
    TrainerRow("GRPO scale_rewards=none", "GRPOTrainer", UNSCALED, UNBIASED),
    TrainerRow("GRPO scale_rewards=none use_bias_correction_kl=False", "GRPOTrainer", UNSCALED | UNCORRECTED),
    *(
        TrainerRow(f"GRPO scale_rewards=none loss_type={name}", "GRPOTrainer", {**UNSCALED, "loss_type": name}, UNBIASED)
        for name in LOSS_TYPES
    ),
    TrainerRow(
        "GRPO scale_rewards=none importance_sampling_level=sequence",
        "GRPOTrainer",
        UNSCALED | SEQUENCE,
        "a weight of the sequence on the KL of each token",
    ),
    TrainerRow(
        "GRPO scale_rewards=none loss_type=luspo importance_sampling_level=sequence",
        "GRPOTrainer",
        {**UNSCALED, **SEQUENCE, "loss_type": "luspo"},
        "a weight of the sequence on the KL of each token",
    ),
    TrainerRow("GRPO num_iterations=2, second update", "GRPOTrainer", {}, UNBIASED, is_second_update=True),
    TrainerRow("GRPO num_iterations=2 use_bias_correction_kl=False, second update", "GRPOTrainer", UNCORRECTED, "", True),
    TrainerRow("RLOO", "RLOOTrainer", {}, "KL in the reward"),
    TrainerRow("RLOO normalize_advantages=True", "RLOOTrainer", {"normalize_advantages": True}, "KL in the reward"),
    # A penalty inside of the loss: steps are compared to the gradients of the definitions in `preference_losses`.
    TrainerRow("DPO", "DPOTrainer", {}, "reverse KL"),
    TrainerRow("DPO f_divergence_type=forward_kl", "DPOTrainer", {"f_divergence_type": "forward_kl"}, "forward KL"),
    TrainerRow("DPO f_divergence_type=js_divergence", "DPOTrainer", {"f_divergence_type": "js_divergence"}, "Jensen-Shannon"),
    TrainerRow("online DPO", "OnlineDPOTrainer", {}),
    TrainerRow("online DPO loss_type=ipo", "OnlineDPOTrainer", {"loss_type": "ipo"}),
    TrainerRow("KTO", "KTOTrainer", {}),
    # The divergence from the reference, as the teacher, with nothing beside it: beta says which one.
    *(
        TrainerRow(f"{trainer.removesuffix('Trainer')} beta={beta:g}", trainer, {}, says, beta=beta)
        for trainer in ("GKDTrainer", "DistillationTrainer")
        for beta, says in ((0.0, "forward KL"), (0.5, "Jensen-Shannon"), (1.0, "reverse KL"))
    ),
)
