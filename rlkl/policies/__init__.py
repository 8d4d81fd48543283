"""Policy families, by name."""

from rlkl.policies import gaussian, gru, ngram, tabular, transformer
from rlkl.policies.base import REGISTRY, AnyPolicy, Family, Network, Policy, register, table_of
from rlkl.policies.decoded import decoded, tempered
from rlkl.policies.fixed import Fixed
from rlkl.policies.rounded import rounded

__all__ = [
    "REGISTRY", "AnyPolicy", "Family", "Fixed", "Network", "Policy",
    "decoded", "gaussian", "gru", "ngram", "register", "rounded", "table_of", "tabular", "tempered", "transformer",
]  # fmt: skip
