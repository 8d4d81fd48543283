"""The policy families, and their registry."""

from rlkl.policies import gaussian, gru, ngram, tabular, transformer
from rlkl.policies.base import REGISTRY, AnyPolicy, Family, Fixed, Network, Policy, cast, register, table_of
from rlkl.policies.transforms import Sampler, decoded, deployed, rounded, tempered

__all__ = [
    "REGISTRY", "AnyPolicy", "Family", "Fixed", "Network", "Policy", "Sampler", "cast",
    "decoded", "deployed", "gaussian", "gru", "ngram", "register", "rounded", "table_of", "tabular", "tempered", "transformer",
]  # fmt: skip
