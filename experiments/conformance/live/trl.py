"""Rows of TRL: whole trainers as black boxes (`rlkl.diagnostics.check.trl_trainers`), of whichever release is installed."""

from importlib import metadata
from typing import Any

import trl

from experiments.conformance.rows import TrainerRow

LIBRARY = "TRL"
VERSION = metadata.version("trl")
SOURCE = f"trl {VERSION} from the package index, beside transformers {metadata.version('transformers')}"


UNSCALED: dict[str, Any] = {"scale_rewards": "none"}
UNCORRECTED: dict[str, Any] = {"use_bias_correction_kl": False}
SEQUENCE: dict[str, Any] = {"importance_sampling_level": "sequence"}
IS_CORRECTED = trl.GRPOConfig.__dataclass_fields__["use_bias_correction_kl"].default  # since 1.10.0
UNBIASED = "unbiased gradient of the reverse KL" if IS_CORRECTED else ""
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo")

ALL_ROWS = (
    # A penalty beside a reward.
    TrainerRow("default (GRPO, beta above 0)", "GRPOTrainer", {}, UNBIASED, has_groups=True),
    TrainerRow("GRPO use_bias_correction_kl=False", "GRPOTrainer", UNCORRECTED),
    TrainerRow("GRPO scale_rewards=batch", "GRPOTrainer", {"scale_rewards": "batch"}, UNBIASED),
    TrainerRow("GRPO scale_rewards=none", "GRPOTrainer", UNSCALED, UNBIASED, has_groups=True),
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
    TrainerRow("RLOO", "RLOOTrainer", {}, "KL in the reward", has_groups=True),
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

LATEST = "1.16.0"
OF_EVERY_RELEASE = (
    "default (GRPO, beta above 0)", "GRPO use_bias_correction_kl=False", "GRPO scale_rewards=none",
    "GRPO scale_rewards=none use_bias_correction_kl=False", "RLOO", "RLOO normalize_advantages=True",
)  # fmt: skip
FIELDS = set(trl.GRPOConfig.__dataclass_fields__)


def _is_run(row: TrainerRow) -> bool:
    """Whether this release is asked for a row: the latest for all, the others for those whose answer changed."""
    return VERSION == LATEST or (
        row.setting in OF_EVERY_RELEASE and (row.trainer == "RLOOTrainer" or set(row.options) <= FIELDS)
    )


ROWS = [row for row in ALL_ROWS if _is_run(row)]
