"""The policy families, and their registry."""

from rlkl.policies import gaussian, gru, ngram, tabular, transformer
from rlkl.policies.base import REGISTRY, AnyPolicy, Family, Fixed, Network, Policy, cast, register, table_of
from rlkl.policies.transforms import decoded, rounded, tempered

__all__ = [
    "REGISTRY", "AnyPolicy", "Family", "Fixed", "Network", "Policy", "cast",
    "decoded", "gaussian", "gru", "ngram", "register", "rounded", "table_of", "tabular", "tempered", "transformer",
]  # fmt: skip
